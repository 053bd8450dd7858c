package api

// Config says where the API listens and what it is called.
type Config struct {
	// ListenAddr is a host and a port; port 0 lets the system choose.
	ListenAddr string `env:"VEGA_LISTEN_ADDR, default=127.0.0.1:8000" form:"address" doc:"Where the API listens; a container sets 0.0.0.0:8000."`

	// AppName is the title of the API's documentation.
	AppName string `env:"VEGA_APP_NAME, default=Vega" doc:"Application title (shown in /docs)."`

	// Prefix starts with a slash and does not end with one.
	Prefix string `env:"VEGA_API_PREFIX, default=/v1" form:"path" doc:"URL prefix for all API routes."`
}
