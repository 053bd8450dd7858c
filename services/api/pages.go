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

// page puts one on the router. The index says where things are; the documentation draws /openapi.json by itself and asks nobody else
// for anything.
func (s *Server) page(path string, t *template.Template) {
	s.router.Get(path, func(w http.ResponseWriter, r *http.Request) {
		callOf(r.Context()).route = path
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		_ = t.Execute(w, map[string]string{"Name": s.Config.AppName, "Prefix": s.Config.Prefix, "Version": s.Version}) // a client that is gone reads no page
	})
}

func (s *Server) getOpenAPI(w http.ResponseWriter, r *http.Request) {
	callOf(r.Context()).route = "/openapi.json"
	b, err := s.OpenAPI()
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}
