#!/bin/sh
# Makes the certificates of a trust server and its signer, for those who have no
# authority of their own:
#
#   SERVER=trust.example.com deploy/certificates.sh FOLDER
#
# SERVER, SIGNER, DATABASE and REGISTRY are the names by which these are reached.
# Two authorities: "ca", whom clients trust, and "inside-ca", of what only server
# and signer talk to. Take ca.key and inside-ca.key off the machine afterwards.
# Nothing that is there already is replaced: to renew a certificate, remove it.
set -eu
umask 077
cd "${1:?name the folder for the certificates}"
: "${SERVER:=localhost}" "${SIGNER:=localhost}" "${DATABASE:=localhost}" "${REGISTRY:=$SERVER}"

authority() { # FILE NAME
	test -e "$1.crt" || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
		-keyout "$1.key" -out "$1.crt" -subj "/CN=$2" \
		-addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign 2>/dev/null
}

certificate() { # FILE AUTHORITY NAME PURPOSE
	if test -e "$1.crt"; then return; fi
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$3" 2>/dev/null
	printf 'subjectAltName=DNS:%s\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n' "$3" "$4" >"$1.ext"
	openssl x509 -req -in "$1.csr" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 365 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
	rm "$1.csr" "$1.ext"
}

authority ca "iEchor trust"
certificate server ca "$SERVER" serverAuth
certificate registry ca "$REGISTRY" serverAuth

authority inside-ca "iEchor trust, inside"
certificate signer inside-ca "$SIGNER" serverAuth
certificate database inside-ca "$DATABASE" serverAuth
# Who calls the signer: the names stand in its identities.
certificate signer-client inside-ca trust-server clientAuth
certificate operator inside-ca operator clientAuth
# How they log in at a database that takes certificates: each as its role.
certificate server-database inside-ca trust clientAuth
certificate signer-database inside-ca signer clientAuth
