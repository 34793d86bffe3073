package notify

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// mailServer speaks as much SMTP (RFC 5321) with STARTTLS (RFC 3207) and AUTH PLAIN
// (RFC 4954) as a letter needs.
type mailServer struct {
	addr  string
	roots *x509.CertPool
	tls   *tls.Config

	mu      sync.Mutex
	letters []letterGot
	refuse  int // answers 451 to so many letters
	plain   bool
}

type letterGot struct {
	from, auth string
	to         []string
	text       string
	encrypted  bool
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func newMailServer(t *testing.T) *mailServer {
	t.Helper()
	cert, pool := certificate(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mailServer{addr: ln.Addr().String(), roots: pool, tls: &tls.Config{Certificates: []tls.Certificate{cert}}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { m.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return m
}

func (m *mailServer) got() []letterGot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]letterGot(nil), m.letters...)
}

func (m *mailServer) serve(c net.Conn) {
	defer func() { c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	say := func(lines ...string) bool {
		_, err := c.Write([]byte(strings.Join(lines, "\r\n") + "\r\n"))
		return err == nil
	}
	var l letterGot
	say("220 localhost ready")
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb := strings.ToUpper(strings.Fields(line + " x")[0])
		switch {
		case verb == "EHLO" || verb == "HELO":
			m.mu.Lock()
			plain := m.plain
			m.mu.Unlock()
			switch {
			case l.encrypted:
				say("250-localhost", "250 AUTH PLAIN")
			case plain:
				say("250 localhost")
			default:
				say("250-localhost", "250 STARTTLS")
			}
		case verb == "STARTTLS":
			say("220 go ahead")
			s := tls.Server(c, m.tls)
			if s.Handshake() != nil {
				return
			}
			c, r, l.encrypted = s, bufio.NewReader(s), true
		case verb == "AUTH":
			b, err := base64.StdEncoding.DecodeString(line[strings.LastIndexByte(line, ' ')+1:])
			if err != nil {
				say("501 what")
				continue
			}
			if l.auth = strings.ReplaceAll(string(b), "\x00", "|"); !strings.HasSuffix(l.auth, "|good") {
				say("535 no")
				continue
			}
			say("235 welcome")
		case verb == "MAIL":
			l.from = line
			say("250 ok")
		case verb == "RCPT":
			l.to = append(l.to, line)
			say("250 ok")
		case verb == "DATA":
			say("354 go on")
			var b strings.Builder
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				b.WriteString(line)
			}
			l.text = b.String()
			m.mu.Lock()
			refuse := m.refuse > 0
			if refuse {
				m.refuse--
			} else {
				m.letters = append(m.letters, l)
			}
			m.mu.Unlock()
			if refuse {
				say("451 try again later")
			} else {
				say("250 taken")
			}
		case verb == "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}
