# Vega as an image: one static binary on nothing. docker build --build-arg VERSION=v1.2.3 -t vega:v1.2.3 .
# Every role runs from it, chosen by VEGA_SERVICE_ROLE. It runs as a user without a name and needs no writable file system beyond /data and /tmp.

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /out/vega ./cmd/vega \
 && mkdir -p /out/etc/ssl/certs /out/data && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ \
 && mkdir -m 1777 /out/tmp

FROM scratch
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build /out/tmp /tmp
COPY --from=build /out/etc /etc
COPY --from=build /out/vega /vega
ENV VEGA_DATA_DIR=/data \
    VEGA_LISTEN_ADDR=0.0.0.0:8000 \
    VEGA_LLM_PROXY_LISTEN_ADDR=0.0.0.0:8001 \
    VEGA_HEALTH_LISTEN_ADDR=127.0.0.1:8002 \
    VEGA_LOG_FORMAT=json
USER 65532:65532
VOLUME /data
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/vega", "healthcheck"]
ENTRYPOINT ["/vega"]
