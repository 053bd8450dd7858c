package files

import (
	"context"
	"net"
	"net/http"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// stillTime is how long nothing may move on a connection to S3 before it counts as broken. S3 sends something within seconds also while it puts a large
// upload together.
const stillTime = 60 * time.Second

// newHTTPClient is the SDK's client with connections that break off when they stand still: the SDK itself would wait without end.
func newHTTPClient() *awshttp.BuildableClient {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.IdleConnTimeout = stillTime / 2
		t.MaxIdleConnsPerHost = 32
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return movingConn{c}, nil
		}
	})
}

// movingConn gives its peer more time with everything that moves, in either direction: a pending read waits on while a long body is written.
type movingConn struct{ net.Conn }

func (c movingConn) Read(p []byte) (int, error) {
	_ = c.SetDeadline(time.Now().Add(stillTime)) // a closed connection fails below
	return c.Conn.Read(p)
}

func (c movingConn) Write(p []byte) (int, error) {
	_ = c.SetDeadline(time.Now().Add(stillTime))
	return c.Conn.Write(p)
}
