package engine

import (
	"context"
	"strings"
)

// redactor takes credentials out of text that comes from the model or from its commands: those that the secrets stage found in the source, wherever they are repeated, and
// what has the form of a known kind of credential. It is safe for concurrent use.
type redactor struct {
	masker   masker
	detector *detector
	known    *strings.Replacer
}

// newRedactor reads the credentials that the secrets stage found again from their places.
func (r *run) newRedactor(ctx context.Context) (*redactor, error) {
	d, err := theDetector()
	if err != nil {
		return nil, err
	}
	var found secretsResult
	if err := r.result(ctx, stageSecrets, &found); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var pairs []string
	add := func(text, mask string) {
		if len(text) >= 6 && !seen[text] {
			seen[text] = true
			pairs = append(pairs, text, mask)
		}
	}
	for _, f := range found.Files {
		content, _, err := r.contentOf(f.Path)
		if err != nil {
			continue // what cannot be read cannot be repeated
		}
		for _, s := range f.Masked {
			if s.Off < 0 || s.Len <= 0 || s.end() > len(content) {
				continue
			}
			secret := content[s.Off:s.end()]
			mask := r.masker.mask(secret)
			add(string(secret), mask)
			for line := range strings.Lines(string(secret)) { // of a key, which may be shown in pieces
				if line = strings.TrimSpace(line); len(line) >= 20 && len(line) < len(secret) {
					add(line, mask)
				}
			}
		}
	}
	return &redactor{r.masker, d, strings.NewReplacer(pairs...)}, nil
}

// maxRedacted bounds the text that is looked through; the rest is cut off.
const maxRedacted = 128 << 10

// text is s without credentials, in valid UTF-8.
func (x *redactor) text(ctx context.Context, s string) string {
	s = cleanLines(s)
	if len(s) > maxRedacted {
		s = strings.ToValidUTF8(s[:maxRedacted], "") + "…"
	}
	s = x.known.Replace(s)
	content := []byte(s)
	matches, _ := x.detector.find(ctx, "", content)
	var spans []span
	for _, m := range matches {
		if m.rule != ruleGeneric && !m.wholeFile && !strings.Contains(s[m.Off:m.end()], "[masked:") {
			spans = append(spans, m.span)
		}
	}
	if len(spans) > 0 {
		s = string(x.masker.maskSpans(content, 0, len(content), spans))
	}
	return x.masker.maskPasswords(s)
}
