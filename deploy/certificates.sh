#!/bin/sh
# Writes certificates and tokens for a deployment of one's own: certificates.sh FOLDER [NAME...]
#
# A certificate authority, certificates for the services (valid for localhost too, where health
# checks and published ports are reached) and for clients, the two tokens, and passwords for
# Grafana and PostgreSQL. Called again it renews the certificates under the same authority and leaves the rest;
# services that run take up the new ones by themselves. NAMEs are further host names of each
# service's certificate.
set -eu
umask 077
folder=$1
shift
extra=
for name; do extra="$extra,DNS:$name"; done
mkdir -p "$folder"
work=$(mktemp -d "$folder/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

if [ ! -f "$folder/ca.key" ]; then
  cat > "$work/ca.cnf" <<END
[req]
distinguished_name = subject
x509_extensions = authority
prompt = no
[subject]
CN = reinforced-regularization
[authority]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
END
  key "$work/ca.key"
  openssl req -x509 -new -sha256 -days 3650 -config "$work/ca.cnf" -key "$work/ca.key" -out "$work/ca.pem"
  mv "$work/ca.pem" "$folder/ca.pem"
  mv "$work/ca.key" "$folder/ca.key"
fi

# issue FILE USAGE ALTERNATIVE_NAMES
issue() {
  printf '[req]\ndistinguished_name = subject\nprompt = no\n[subject]\nCN = %s\n' "$1" > "$work/$1.cnf"
  cat > "$work/$1.ext" <<END
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = $2
subjectAltName = $3
END
  key "$work/$1.key"
  openssl req -new -sha256 -config "$work/$1.cnf" -key "$work/$1.key" -out "$work/$1.csr"
  openssl x509 -req -sha256 -days 365 -in "$work/$1.csr" -extfile "$work/$1.ext" -set_serial "0x$(openssl rand -hex 16)" \
    -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -out "$work/$1.pem" 2> "$work/said" || { cat "$work/said" >&2; exit 1; }
  # Into the same files: a container has these mounted one by one, and would keep a replaced one.
  cat "$work/$1.key" > "$folder/$1.key"
  cat "$work/$1.pem" > "$folder/$1.pem"
}

here=DNS:localhost,IP:127.0.0.1,IP:0:0:0:0:0:0:0:1
for service in agent trainer-0 trainer-1; do
  # A trainer is the agent's client, and shows the same certificate there.
  issue "$service" serverAuth,clientAuth "DNS:$service,$here$extra"
done
issue localhost serverAuth,clientAuth "$here$extra"
issue client clientAuth DNS:client

for secret in run.token admin.token grafana.password postgres.password; do
  if [ ! -f "$folder/$secret" ]; then
    openssl rand -base64 32 | tr '+/' '-_' | tr -d '=' > "$work/$secret"
    mv "$work/$secret" "$folder/$secret"
  fi
done

# The folder is its owner's; the files are readable to the user of a container that they are
# mounted into, whose number is another. The authority's key stays on this machine.
chmod 700 "$folder"
chmod 644 "$folder"/*.pem "$folder"/*.key "$folder"/*.token "$folder"/*.password
chmod 600 "$folder/ca.key"
echo "wrote $folder: ca.pem, certificates and keys for agent, trainer-0, trainer-1, localhost and client; run.token, admin.token, grafana.password, postgres.password"
