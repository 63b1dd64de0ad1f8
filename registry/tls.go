package registry

import (
	"crypto/tls"
	"errors"
)

// certificateTrouble returns dir if err is about the server's certificate.
func certificateTrouble(err error, dir string) string {
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) {
		return dir
	}
	return ""
}
