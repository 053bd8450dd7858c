package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// apiVersion is that of the interface, not of the program: fields are added within one version.
const apiVersion = "1"

const apiDescription = `Scans source code for security problems and keeps what it finds.

Sign in with POST auth/login and send the access token as a bearer token; programs send an API key, as a bearer token or as X-Api-Key.

**Errors** have one shape, ` + "`{\"schema_version\":1,\"error\":{\"code\",\"message\",\"retryable\",\"details\"}}`" + `, or say the same as RFC 9457 to clients
that accept application/problem+json. What you may not see does not exist: 404.

**Lists** take limit (1-1000) and cursor; next_cursor is absent at the end.

**Writes** answer with Vega-Sequence; a read with at_least=SEQ answers only when it has that event. Creating takes Idempotency-Key, changing
takes If-Match with the ETag that was read.`

// schemaName names the schemas of shapes.go for readers: ScanList, LoginRequest, Scan.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	if of, ok := strings.CutPrefix(name, "Many"); ok {
		return strings.TrimSuffix(strings.TrimSuffix(of, "Body"), "Body") + "List"
	}
	if of, ok := strings.CutSuffix(name, "InBody"); ok {
		return of + "Request"
	}
	return strings.TrimSuffix(name, "Body")
}

// finishOpenAPI corrects what huma has generated: our shape of errors instead of its own, lists that are never null, objects that may be.
func (s *Server) finishOpenAPI() {
	o := s.api.OpenAPI()
	registry := o.Components.Schemas
	ours := registry.Schema(reflect.TypeFor[errorBody](), true, "")
	problem := registry.Schema(reflect.TypeFor[problemBody](), true, "")
	events := registry.Schema(reflect.TypeFor[many[eventBody]]().Field(0).Type, true, "ManyEventBodyBody")
	upload := registry.Schema(reflect.TypeFor[uploadBody](), true, "")
	schemas := registry.Map()
	delete(schemas, "ErrorModel")
	delete(schemas, "ErrorDetail")
	for name, schema := range schemas {
		for _, p := range schema.Properties {
			if p.Type == huma.TypeArray && !strings.HasSuffix(name, "Request") { // requests may say null for an empty list
				p.Nullable = false
			}
		}
	}
	for name, fields := range map[string][]string{"Scan": {"error", "comparison"}, "Both": {"base"}, "Repository": {"ingest_error", "latest_snapshot"}} {
		for _, f := range fields {
			schemas[name].Properties[f] = &huma.Schema{OneOf: []*huma.Schema{schemas[name].Properties[f], {Type: "null"}}}
		}
	}
	for _, item := range o.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete, item.Patch} {
			if op == nil {
				continue
			}
			switch op.OperationID {
			case "getScanEvents":
				op.Responses["200"] = &huma.Response{Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: events}, "text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}}}
			case "listRepositoryEvents":
				op.Responses["200"] = &huma.Response{Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: events}}}
			case "uploadSource", "completeUpload":
				op.Responses["202"] = &huma.Response{Description: "Accepted", Content: map[string]*huma.MediaType{"application/json": {Schema: upload}}}
			}
			op.Responses["default"] = &huma.Response{Description: "Not what was asked for", Content: map[string]*huma.MediaType{
				"application/json": {Schema: ours}, problemJSON: {Schema: problem},
			}}
		}
	}
}

// OpenAPI is the document that /openapi.json serves, indented.
func (s *Server) OpenAPI() ([]byte, error) {
	b, err := json.MarshalIndent(s.api.OpenAPI(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write openapi: %w", err)
	}
	return append(b, '\n'), nil
}

func binary() *huma.Schema { return &huma.Schema{Type: huma.TypeString, Format: "binary"} }

func param(in, name, description string, s *huma.Schema) *huma.Param {
	return &huma.Param{Name: name, In: in, Required: in == "path", Description: description, Schema: s}
}

// The routes that are not JSON in and JSON out.

func archive(op *huma.Operation) {
	op.Description = "The body is the archive; its Content-Type is ignored, the bytes decide. The answer comes when the snapshot is taken. A refused archive names the entry and the limit."
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/octet-stream": {Schema: binary()}}}
}

func completion(op *huma.Operation) {
	op.Description = "Answers as an upload of the whole archive does, when the snapshot is taken. Parts that are missing or too small are named and can be sent; the request may then be repeated."
	op.Parameters = append(op.Parameters, param("path", "upload_id", "As its beginning named it", &huma.Schema{Type: huma.TypeString}))
	op.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{
		"sha256": {Type: huma.TypeString, Description: "sha256:<hex> of the whole archive"}, "bytes": {Type: huma.TypeInteger, Description: "Its size"},
	}}}}}
}

func downloadPath(op *huma.Operation) {
	op.Parameters = append(op.Parameters, param("path", "token", "As the link has it", &huma.Schema{Type: huma.TypeString}))
	answers("200", "The file", "application/octet-stream")(op)
}

func eventPage(op *huma.Operation) {
	op.Parameters = append(op.Parameters,
		param("query", "after", "The id of an event: only what follows it", &huma.Schema{Type: huma.TypeString}),
		param("query", "limit", "How many items at most", &huma.Schema{Type: huma.TypeInteger, Minimum: new(1.0), Maximum: new(1000.0), Default: 50}))
}

func eventStream(op *huma.Operation) {
	op.Description = "With Accept: text/event-stream everything so far and then everything that follows, until the event \"end\" of a scan that is over. Resume with Last-Event-ID or after."
	op.Parameters = append(op.Parameters, param("header", "Last-Event-ID", "The id of the last event that arrived", &huma.Schema{Type: huma.TypeString}))
}

func artifactFile(op *huma.Operation) {
	op.Parameters = append(op.Parameters, param("path", "path", "The artifact's name", &huma.Schema{Type: huma.TypeString}))
	answers("200", "The file", "application/octet-stream")(op)
}

func exportBody(op *huma.Operation) {
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{
		Type: huma.TypeObject, Required: []string{"format"}, AdditionalProperties: false, Properties: map[string]*huma.Schema{"format": formatSchema()}}}}}
}

func exportPath(op *huma.Operation) {
	op.Parameters = append(op.Parameters, param("path", "format", "", formatSchema()))
}

func exportFile(op *huma.Operation) {
	op.Description = "The answer is the document, with the scan's state and coverage of this moment."
	answers("200", "The document", "application/sarif+json", "application/json", "text/csv", "text/markdown")(op)
}

func formatSchema() *huma.Schema {
	s := &huma.Schema{Type: huma.TypeString}
	for _, f := range exportForms {
		s.Enum = append(s.Enum, f.name)
	}
	return s
}
