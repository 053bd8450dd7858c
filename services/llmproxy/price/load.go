package price

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// mostFile is how large a file of prices may be.
const mostFile = 1 << 20

// Load returns the default table with the entries of a file, each of which replaces or adds one. The package's description says what stands in such a file.
// Errors name the file, the model and the field.
func Load(path string) (*Table, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the file of prices: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, mostFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the file of prices %s: %w", path, err)
	}
	if len(b) > mostFile {
		return nil, fmt.Errorf("file of prices %s: is larger than %d bytes", path, mostFile)
	}
	t := Default()
	asOf, models, err := decode(b, t.asOf)
	if err != nil {
		return nil, fmt.Errorf("file of prices %s: %w", path, err)
	}
	return t.with(asOf, models), nil
}

func decode(b []byte, asOf time.Time) (time.Time, map[string]Model, error) {
	var models map[string]Model
	err := object(b, func(name string, value json.RawMessage) (err error) {
		switch name {
		case "as_of":
			var day string
			if json.Unmarshal(value, &day) == nil {
				asOf, err = time.Parse(time.DateOnly, day)
			}
			if day == "" || err != nil {
				return errors.New("must be a day such as \"2026-11-24\"")
			}
			return nil
		case "models":
			models = map[string]Model{}
			return object(value, func(name string, value json.RawMessage) (err error) {
				if name == "" {
					return errors.New("a model must have a name")
				}
				models[name], err = model(value)
				return err
			})
		}
		return errUnknown
	})
	if err == nil && len(models) == 0 {
		err = errors.New("models: must have at least one entry")
	}
	return asOf, models, err
}

var errUnknown = errors.New("is no field that a file of prices has")

func model(b json.RawMessage) (m Model, err error) {
	var others []tier
	first, err := tierOf(b, defaultTier, func(name string, value json.RawMessage) error {
		switch name {
		case "max_output":
			return count(value, &m.maxOutput)
		case "tiers":
			seen := map[string]bool{defaultTier: true}
			return object(value, func(name string, value json.RawMessage) error {
				if name = tierName(name); seen[name] {
					return fmt.Errorf("the tier %q is there twice; the default one has the model's own rates", name)
				}
				seen[name] = true
				t, err := tierOf(value, name, nil)
				others = append(others, t)
				return err
			})
		}
		return errUnknown
	})
	m.tiers = append([]tier{first}, others...)
	return m.settle(), err
}

// tierOf reads rates, and whatever else the caller knows.
func tierOf(b json.RawMessage, name string, more func(string, json.RawMessage) error) (tier, error) {
	t := tier{name: name}
	short, err := ratesOf(b, func(field string, value json.RawMessage) (err error) {
		if field != "long_context" {
			if more == nil {
				return errUnknown
			}
			return more(field, value)
		}
		t.long, err = ratesOf(value, func(field string, value json.RawMessage) error {
			if field != "above" {
				return errUnknown
			}
			return count(value, &t.above)
		})
		if err == nil && t.above == 0 {
			err = errors.New("above: is missing")
		}
		return err
	})
	t.short = short
	return t, err
}

func ratesOf(b json.RawMessage, more func(string, json.RawMessage) error) (rates, error) {
	r := rates{-1, -1, -1, -1}
	err := object(b, func(name string, value json.RawMessage) error {
		switch name {
		case "input":
			return amount(value, &r.input)
		case "cached_input":
			return amount(value, &r.cached)
		case "cache_write":
			return amount(value, &r.write)
		case "output":
			return amount(value, &r.output)
		}
		return more(name, value)
	})
	switch {
	case err != nil:
	case r.input < 0:
		err = errors.New("input: is missing")
	case r.output < 0:
		err = errors.New("output: is missing")
	}
	if r.cached < 0 {
		r.cached = r.input
	}
	if r.write < 0 {
		r.write = r.input
	}
	return r, err
}

// amount reads dollars per million tokens, from a string or a number as it is written.
func amount(b json.RawMessage, n *NanoUSD) error {
	text := string(b)
	if b[0] == '"' {
		_ = json.Unmarshal(b, &text) // it is a string
	}
	if n.UnmarshalText([]byte(text)) != nil {
		return errors.New("must be US dollars per million tokens, such as \"2.50\", with at most nine decimals")
	}
	return nil
}

// count reads a positive number of tokens.
func count(b json.RawMessage, n *int64) error {
	v, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || v <= 0 {
		return errors.New("must be a positive number of tokens")
	}
	*n = v
	return nil
}

// object calls each for the members of an object, in their order, and puts the member's name before its error. A name that is there twice is an error.
func object(b json.RawMessage, each func(name string, value json.RawMessage) error) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("must be a JSON object")
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return fmt.Errorf("is not JSON: %w", err)
		}
		name, _ := t.(string) // the decoder passes nothing else here
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return fmt.Errorf("%s: is not JSON: %w", name, err)
		}
		if seen[name] {
			return fmt.Errorf("%s: is there twice", name)
		}
		seen[name] = true
		if err := each(name, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("is not JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("goes on behind its JSON object")
	}
	return nil
}
