package engine

import (
	"cmp"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// reference finds places in what a model wrote: a path with an extension, a colon, and a line or a range of lines.
var reference = regexp.MustCompile(`([\w.@+~/\\-]*\w\.[A-Za-z]\w*):(\d{1,8})(?:-(\d{1,8}))?`)

// namedPlace is how a review names a place; its answer was checked to have this form.
var namedPlace = regexp.MustCompile(`^(.+):(\d{1,8})(?:-(\d{1,8}))?$`)

// isThere says whether a place that a review names is in the source.
func (r *run) isThere(place string) bool {
	m := namedPlace.FindStringSubmatch(place)
	return m != nil && r.reaches(r.inTree(m[1]), lastLine(m))
}

// lastLine is the last line of a match of either expression.
func lastLine(m []string) int {
	n, _ := strconv.Atoi(cmp.Or(m[3], m[2])) // eight digits at most
	return n
}

// reaches says whether a file of the source has a line. Of one that is too large to be analysed, only its name is known.
func (r *run) reaches(name string, line int) bool {
	content, whole, err := r.contentOf(name)
	return err == nil && line >= 1 && (!whole || line <= len(indexLines(content)))
}

// names are what the paths of a tree may be called: made once for many texts.
type names struct {
	kinds map[string]bool // extensions
	ends  map[string]bool // paths, and what is left of them without their first folders
}

func (t *tree) names() names {
	n := names{map[string]bool{}, map[string]bool{}}
	for _, f := range t.files {
		n.kinds[path.Ext(f.path)] = true
		for rest, more := f.path, true; more; {
			n.ends[rest] = true
			_, rest, more = strings.Cut(rest, "/")
		}
	}
	return n
}

// notThere lists, each once and at most ten, the places in texts that look like those of the source and are not in it. A path counts when it is of a kind of file that the source has; one
// that is written without its folder, or with some of them, is taken for any file that ends so. Places in libraries look the same, so it is for a reader to know, and refutes nothing.
func (r *run) notThere(known names, texts ...string) []string {
	var out []string
	seen := map[string]bool{}
	for _, text := range texts {
		for _, m := range reference.FindAllStringSubmatch(text, -1) {
			name := r.inTree(m[1])
			if seen[m[0]] || !known.kinds[path.Ext(name)] {
				continue
			}
			seen[m[0]] = true
			_, exact := r.tree.byPath[name]
			if there := exact && r.reaches(name, lastLine(m)) || !exact && known.ends[name]; !there && len(out) < 10 {
				out = append(out, m[0])
			}
		}
	}
	return out
}
