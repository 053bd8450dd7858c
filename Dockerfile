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

# What scripts/codex-in-target-container.sh runs: Codex, and the few programs that it reads a source with, in a container without a network.
# docker build --target codex-runner -t vega-codex-runner . (make codex-image)
FROM node:22-bookworm-slim AS codex
ARG TARGETARCH
ARG CODEX=0.169.0
WORKDIR /out
# The sums are those of the packages for the two platforms, which hold the program itself; node is not needed for it.
RUN case "${TARGETARCH:-$(dpkg --print-architecture)}" in \
      amd64) cpu=x64 sum=a34e4dc803820f28123d1a35ca29f3c6f91149d9ac672043f44ee66e99a345a9d27ccf25ca9a96b50804a385df364c21b82476685bbc9a518eb101855d56d5c3 ;; \
      arm64) cpu=arm64 sum=359fc36905297109b19aa79eed9f6e0b5af3c371a149ba286b071a4ded4b379624f969629d42867535c98029514fff6881010433d4d6c58cefc4f7e3e46ff116 ;; \
      *) echo "codex has no program for this platform" >&2; exit 1 ;; \
    esac \
 && npm pack --silent "@openai/codex@${CODEX}-linux-${cpu}" \
 && echo "$sum  openai-codex-${CODEX}-linux-${cpu}.tgz" | sha512sum --check --quiet \
 && tar -xzf openai-codex-*.tgz --strip-components=4 --wildcards 'package/vendor/*/bin/codex' \
 && rm openai-codex-*.tgz && test -x codex

FROM golang:1.26.8-bookworm AS codex-entry
WORKDIR /src
COPY go.mod go.sum ./
COPY cmd/vega-codex cmd/vega-codex
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" -o /out/vega-codex ./cmd/vega-codex

FROM debian:bookworm-slim AS codex-tools
RUN apt-get update && apt-get install --yes --no-install-recommends ripgrep file && rm -rf /var/lib/apt/lists/*

FROM codex-tools AS codex-runner
COPY --from=codex /out/codex /usr/local/bin/codex
COPY --from=codex-entry /out/vega-codex /usr/local/bin/vega-codex
ENV PATH=/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    CODEX_HOME=/codex \
    TMPDIR=/tmp
LABEL vega.codex.runner=1
WORKDIR /source
USER 65534:65534
ENTRYPOINT ["/usr/local/bin/vega-codex"]

# Vega itself, on nothing.
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
