package intake

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrFull means that the disk under the spool folder is full: nothing is wrong
// with the upload, it may be repeated later.
var ErrFull = errors.New("no space left for the upload")

// Refusal says why an upload was not taken in. Nothing of it is kept.
type Refusal struct {
	Code       string `json:"code"`                  // stable; one of the constants below
	Message    string `json:"message"`               // one sentence for the user
	Entry      string `json:"entry,omitempty"`       // the entry at fault, made printable and cut when it is long
	Limit      string `json:"limit,omitempty"`       // name of the limit that was broken, when one was
	LimitValue int64  `json:"limit_value,omitempty"` // the limit's value, in its own unit
	Value      int64  `json:"value,omitempty"`       // the upload's value; where reading stopped at the limit, the value reached there
}

// Codes of refusals. They are part of the API.
const (
	CodeSourceTooLarge       = "source_too_large"               // the upload has more bytes than VEGA_MAX_SOURCE_BYTES
	CodeUnsupported          = "archive_unsupported"            // no zip, tar, tar.gz or tar.zst
	CodeUnsupportedMethod    = "archive_unsupported_method"     // a zip entry that is neither stored nor deflated
	CodeEncrypted            = "archive_encrypted"              // an encrypted zip entry
	CodeEmpty                = "archive_empty"                  // no file in it
	CodeTruncated            = "archive_truncated"              // it ends before its end
	CodeCorrupt              = "archive_corrupt"                // data that does not decompress or match its checksum
	CodeInconsistent         = "archive_inconsistent"           // headers that contradict each other or the data
	CodeOverlap              = "archive_overlap"                // zip entries that share bytes
	CodePrefixData           = "archive_prefix_data"            // bytes before the first zip entry
	CodeTrailingData         = "archive_trailing_data"          // bytes after the end
	CodeTooManyEntries       = "archive_too_many_entries"       // more than VEGA_MAX_ARCHIVE_ENTRIES
	CodeTooLargeUncompressed = "archive_too_large_uncompressed" // more than VEGA_MAX_ARCHIVE_UNCOMPRESSED_BYTES
	CodeBombRatio            = "archive_bomb_ratio"             // unpacks to more than VEGA_MAX_ARCHIVE_RATIO times its size
	CodeWindowTooLarge       = "archive_window_too_large"       // zstd data that needs more memory than is given
	CodePathEscape           = "archive_path_escape"            // an absolute path, or one with ".."
	CodeBadName              = "archive_bad_name"               // an empty name, or control characters in it
	CodeNameTooLong          = "archive_name_too_long"          // a path or component that is too long, or names too long in sum
	CodeTooDeep              = "archive_path_too_deep"          // a path of too many components
	CodeDuplicate            = "archive_duplicate_entry"        // two entries with one path
	CodePathConflict         = "archive_path_conflict"          // a file or link that another entry uses as a folder
	CodeSpecialFile          = "archive_special_file"           // a device, FIFO, socket or other special entry
	CodeSparse               = "archive_sparse"                 // a sparse file
	CodeLinkTooLong          = "archive_link_too_long"          // a link with an absurd target
	CodeResourceLimit        = "archive_resource_limit"         // the process that unpacked it ran out of memory or time, or died
)

// Error implements error.
func (r *Refusal) Error() string {
	if r.Entry == "" {
		return r.Code + ": " + r.Message
	}
	return fmt.Sprintf("%s: %s (entry %s)", r.Code, r.Message, r.Entry)
}

// Status is the HTTP status of the refusal: 413 for an upload that is too
// large as sent, 422 for one whose content is refused.
func (r *Refusal) Status() int {
	if r.Code == CodeSourceTooLarge {
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusUnprocessableEntity
}

func refuse(code, entry, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Entry: printable(entry), Message: fmt.Sprintf(format, args...)}
}

// overLimit refuses because value is beyond the limit of that name.
func overLimit(code, entry, limit string, limitValue, value int64, what string) *Refusal {
	r := refuse(code, entry, "%s: %d, at most %d (%s)", what, value, limitValue, limit)
	r.Limit, r.LimitValue, r.Value = limit, limitValue, value
	return r
}

// Warning is something about a snapshot that its users should know.
type Warning struct {
	Path string `json:"path"` // in the snapshot, made printable and cut when it is long; empty when it is about the whole
	Code string `json:"code"` // one of the constants below
}

// Codes of warnings. They are part of the API.
const (
	WarnNameCollision  = "name_collision"       // differs from another path by case or Unicode form only
	WarnWindowsName    = "windows_name"         // cannot be created on Windows
	WarnBidiName       = "bidi_name"            // holds characters that reorder or hide text
	WarnNotUTF8        = "name_not_utf8"        // was not UTF-8: each other byte is written as %XX
	WarnBackslash      = "backslash_separator"  // its backslashes were taken as separators
	WarnSpecialMode    = "special_mode"         // setuid or setgid; the bit is dropped
	WarnGitStripped    = "git_stripped"         // .git: not in the snapshot
	WarnAgentConfig    = "agent_config"         // configuration of a coding agent: kept, as data to audit
	WarnLink           = "link_recorded"        // a symbolic or hard link: in the manifest, never created
	WarnLinkOutside    = "link_outside"         // the same, with a target outside the tree
	WarnUnlistedData   = "unlisted_data"        // the zip holds bytes that belong to no entry
	WarnUnreadable     = "unreadable"           // could not be read: not packed
	WarnBadName        = "bad_name"             // a name that would be refused: not packed
	WarnSpecialFile    = "special_file"         // a device, FIFO or socket: not packed
	WarnChanged        = "changed_while_packed" // changed while it was read
	WarnMore           = "more_warnings"        // there were more than are listed
	maxWarnings        = 100
	maxWarningsPerCode = 25
)

// warnings collects a bounded number of warnings, so that no archive makes the
// list long, and no code crowds out the others.
type warnings struct {
	list    []Warning
	perCode map[string]int
	more    bool
}

func (w *warnings) add(path, code string) {
	if w.perCode == nil {
		w.perCode = map[string]int{}
	}
	if w.perCode[code] == maxWarningsPerCode || len(w.list) == maxWarnings-1 {
		w.more = true
		return
	}
	w.perCode[code]++
	w.list = append(w.list, Warning{Path: printable(path), Code: code})
}

func (w *warnings) all() []Warning {
	if w.more {
		return append(w.list, Warning{Code: WarnMore})
	}
	return w.list
}

// printable makes a hostile name fit for messages and logs: what does not
// print is escaped, what is long is cut.
func printable(name string) string {
	const maxBytes = 250
	if len(name) > maxBytes {
		cut := maxBytes
		for cut > maxBytes-utf8.UTFMax && !utf8.RuneStart(name[cut]) {
			cut--
		}
		return escapeUnprintable(name[:cut]) + "…"
	}
	return escapeUnprintable(name)
}

// escapeUnprintable writes bytes that are not UTF-8 as %XX and runes that do
// not print as \xXX or \uXXXX.
func escapeUnprintable(name string) string {
	plain := true
	for i := range len(name) {
		if name[i] < 0x20 || name[i] >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return name
	}
	var b strings.Builder
	for i, r := range name {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(name[i:], "\uFFFD"):
			fmt.Fprintf(&b, "%%%02X", name[i])
		case r < 0x100 && !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
