package secret_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"vega/config/secret"
)

func Example() {
	key := secret.New("hunter2")
	fmt.Println(key, secret.NewURL("postgres://vega:hunter2@db/vega"))
	fmt.Println(key.Reveal())
	// Output:
	// [redacted] postgres://vega:xxxxx@db/vega
	// hunter2
}

func TestURLsAreShownWithoutTheirSecrets(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ url, want string }{
		{"", ""},
		{"https://example.com/path?x=1", "https://example.com/path?x=1"},
		{"postgresql://user:hunter2@host:5432/vega", "postgresql://user:xxxxx@host:5432/vega"},
		{"postgresql://user:hun%20ter2@host/vega?sslmode=off", "postgresql://user:xxxxx@host/vega?sslmode=off"},
		{"postgresql:///vega?host=/run&password=hunter2", "postgresql:///vega?host=/run&password=xxxxx"},
		{"postgresql:///vega?p%61ssword=hunter2", "postgresql:///vega?p%61ssword=xxxxx"},
		{"nats://hunter2@host:4222", "nats://xxxxx@host:4222"},
		{"nats://u:hunter2@a:4222,nats://hunter2@b:4222", "nats://u:xxxxx@a:4222,nats://xxxxx@b:4222"},
		{"postgres://u:12,34@h/db", "postgres://u:xxxxx@h/db"},
		// What a password with special characters does to an address.
		{"nats://u:12,34@a:1,nats://b:2", secret.Redacted},
		{"postgres://u:hun#ter2@h/db", secret.Redacted},
		{"postgres://u:12#ter2@h/db", secret.Redacted},
		{"postgres://u:12/ter2@h/db", secret.Redacted},
		{"postgres://u:12?ter2@h/db", secret.Redacted},
		{"postgres://u:hun%zzter2@h/db", secret.Redacted},
		{"u:hunter2@host:4222", secret.Redacted},
		{"host=db password=hunter2", secret.Redacted},
		{"nats://a:1,u:hunter2@b:2", "nats://a:xxxxx@b:2"},
	} {
		if got := secret.NewURL(tc.url).String(); got != tc.want {
			t.Errorf("NewURL(%q) prints %q, want %q", tc.url, got, tc.want)
		}
		if got := secret.NewURL(tc.url).Reveal(); got != tc.url {
			t.Errorf("Reveal = %q, want %q", got, tc.url)
		}
	}
}

func TestSecretsAreEqualByValueAndEmptyByDefault(t *testing.T) {
	t.Parallel()
	one, same := secret.New("a"), secret.New("a")
	if one != same || secret.New("a") == secret.New("b") || secret.New("") != (secret.String{}) {
		t.Error("secrets do not compare by value")
	}
	var none secret.String
	if !none.IsZero() || none.Reveal() != "" || fmt.Sprint(none) != "" {
		t.Error("the zero secret is not empty")
	}
	var from struct{ Key secret.String }
	if err := json.Unmarshal([]byte(`{"Key":"hunter2"}`), &from); err != nil || from.Key.Reveal() != "hunter2" {
		t.Errorf("read %q, error %v", from.Key.Reveal(), err)
	}
	out, err := json.Marshal(from)
	if err != nil || strings.Contains(string(out), "hunter2") {
		t.Errorf("marshalled %s, error %v", out, err)
	}
}
