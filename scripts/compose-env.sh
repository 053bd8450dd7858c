#!/usr/bin/env bash
# Prints an environment for compose.yaml with a new random secret for everything that needs one: scripts/compose-env.sh >compose.env.
# The model's provider is known to its user alone: its two lines are to be filled in.
set -euo pipefail

# secret prints 32 random bytes in hexadecimal: it may stand in a URL as it is.
secret() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

for name in NATS_PASSWORD NATS_SYSTEM_PASSWORD POSTGRES_PASSWORD S3_SECRET_KEY MASK_SECRET AUTH_SECRET DEBUG_PASSWORD LLM_PROXY_SECRET; do
	printf '%s=%s\n' "$name" "$(secret)"
done
printf '%s=%s\n' LLM_PROVIDER_BASE_URL "${LLM_PROVIDER_BASE_URL:-}" LLM_PROVIDER_API_KEY "${LLM_PROVIDER_API_KEY:-}"
