package api

import (
	_ "embed" // the pages
	"html/template"
	"net/http"
)

//go:embed docs.html
var docsHTML string

//go:embed index.html
var indexHTML string

var (
	docsPage  = template.Must(template.New("docs").Parse(docsHTML))
	indexPage = template.Must(template.New("index").Parse(indexHTML))
)

// page is what the pages know.
type page struct{ Name, Prefix, Version string }

// getDocs is the browsable documentation. It draws /openapi.json by itself and asks nobody else for anything.
func (s *Server) getDocs(w http.ResponseWriter, _ *http.Request) { s.page(w, docsPage) }

// getIndex says where things are.
func (s *Server) getIndex(w http.ResponseWriter, _ *http.Request) { s.page(w, indexPage) }

func (s *Server) page(w http.ResponseWriter, t *template.Template) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	_ = t.Execute(w, page{s.Config.AppName, s.Config.Prefix, s.Version}) // a client that is gone reads no page
}

func (s *Server) getOpenAPI(w http.ResponseWriter, r *http.Request) {
	b, err := s.OpenAPI()
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}
