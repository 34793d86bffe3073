package provider

import (
	"crypto/tls"
	"crypto/x509"
	"syscall"
)

type rawConn = syscall.RawConn

func tlsWith(roots *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}
