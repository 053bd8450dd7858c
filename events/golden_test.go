package events

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sample fills every field of a type, so a golden file shows every name that is on the wire.
func sample(t reflect.Type, depth int) reflect.Value {
	v := reflect.New(t).Elem()
	switch t.Kind() {
	case reflect.String:
		v.SetString("text")
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(7 + depth))
	case reflect.Uint64:
		v.SetUint(9)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Slice:
		v = reflect.Append(v, sample(t.Elem(), depth+1))
	case reflect.Map:
		v = reflect.MakeMap(t)
		v.SetMapIndex(reflect.ValueOf("key").Convert(t.Key()), sample(t.Elem(), depth+1))
	case reflect.Pointer:
		v = reflect.New(t.Elem())
		v.Elem().Set(sample(t.Elem(), depth+1))
	case reflect.Interface:
		v.Set(reflect.ValueOf("text"))
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC))
		}
		for i := range t.NumField() {
			v.Field(i).Set(sample(t.Field(i).Type, depth+1))
		}
	default:
		panic("no sample of " + t.String())
	}
	return v
}

func TestEveryKindIsWrittenAsItsGoldenFileSays(t *testing.T) {
	t.Parallel()
	for _, r := range kinds {
		t.Run(string(r.kind), func(t *testing.T) {
			t.Parallel()
			e := sample(r.goType, 0).Interface().(Event)
			got, err := json.MarshalIndent(e, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := filepath.Join("testdata", "golden", string(r.kind)+"."+strconv.Itoa(r.schema)+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is written as\n%s\nwant\n%s\nA published shape never changes: add an optional field, or a schema and an upcaster.", r.kind, got, want)
			}
			back, err := decodeBody(r.kind, r.schema, want)
			if err != nil || !reflect.DeepEqual(back, e) {
				t.Errorf("read back as %+v, %v; want %+v", back, err, e)
			}
		})
	}
}

func TestEveryGoldenFileCanStillBeRead(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/golden/*.json")
	if err != nil || len(files) < len(kinds) {
		t.Fatalf("%d golden files, %v; want at least %d", len(files), err, len(kinds))
	}
	for _, f := range files {
		name := filepath.Base(f)
		name = name[:len(name)-len(".json")]
		i := len(name) - 1
		for name[i] != '.' {
			i--
		}
		schema, err := strconv.Atoi(name[i+1:])
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		body, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		e, err := decodeBody(Kind(name[:i]), schema, body)
		if _, unknown := e.(Unknown); err != nil || unknown {
			t.Errorf("%s reads as %T, %v", f, e, err)
		}
	}
}
