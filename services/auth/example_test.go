package auth_test

import (
	"context"
	"fmt"
	"os"

	"github.com/nats-io/nats.go/jetstream"

	"vega/config/secret"
	"vega/events/eventstore"
	"vega/services/auth"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	server, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: dir})
	if err != nil {
		panic(err)
	}
	defer server.Stop()
	nc, err := server.Connect()
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		panic(err)
	}
	if err := eventstore.Setup(ctx, js, "local", 1); err != nil {
		panic(err)
	}
	store, err := eventstore.Open(ctx, nc, eventstore.Options{Region: "local"})
	if err != nil {
		panic(err)
	}
	defer store.Close()

	custom, err := auth.NewCustom(ctx, store, auth.CustomOptions{
		Secret:   secret.New("what signs the tokens"),
		Accounts: []auth.Account{{Email: "debug@example.com", Password: secret.New("vega-debug-password"), Admin: true}},
	})
	if err != nil {
		panic(err)
	}
	tokens, err := custom.Login(ctx, "debug@example.com", "vega-debug-password")
	if err != nil {
		panic(err)
	}
	who, err := custom.Verify(ctx, tokens.Access)
	fmt.Println(who.User == auth.UserID("debug@example.com"), who.Admin, err)
	// Output: true true <nil>
}
