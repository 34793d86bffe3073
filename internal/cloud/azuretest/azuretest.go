// Package azuretest gives tests an Azurite, which stands in for Azure Storage:
// blobs and queues.
//
// It is the program WAYBILL_AZURITE names, else azurite in the PATH or in
// waybill/azurite-3.35.0 of the user's cache folder, where
//
//	npm install --prefix ~/.cache/waybill/azurite-3.35.0 azurite@3.35.0
//
// puts it. Without it tests are skipped, or fail if WAYBILL_REQUIRE_ALL is 1.
package azuretest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

// Container is the name of the container that is there.
const Container = "inbox"

// Account is the account of every server that Start starts.
const Account = "waybilltest"

// Key is its key, which is another one in every process.
var Key = newKey()

func newKey() string {
	key := make([]byte, 64)
	rand.Read(key)
	return base64.StdEncoding.EncodeToString(key)
}

// Server is a running Azurite with one container.
type Server struct {
	Blobs, Queues, Tables string // URLs of the account
	container             *container.Client
}

// Program is the path of azurite; empty when there is none.
func Program() string {
	if p := os.Getenv("WAYBILL_AZURITE"); p != "" {
		return p
	}
	if p, err := exec.LookPath("azurite"); err == nil {
		return p
	}
	if cache, err := os.UserCacheDir(); err == nil {
		p := filepath.Join(cache, "waybill", "azurite-3.35.0", "node_modules", ".bin", "azurite")
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

var listening = regexp.MustCompile(`Azurite (Blob|Queue|Table) service is successfully listening at (\S+)`)

// Start starts an Azurite that stops with the test.
func Start(t *testing.T) *Server {
	t.Helper()
	program := Program()
	if program == "" {
		if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
			t.Fatal("azurite is not here: npm install --prefix ~/.cache/waybill/azurite-3.35.0 azurite@3.35.0")
		}
		t.Skip("azurite is not here, see package azuretest")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry",
		"--blobHost", "127.0.0.1", "--blobPort", "0", "--queueHost", "127.0.0.1", "--queuePort", "0", "--tableHost", "127.0.0.1", "--tablePort", "0")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "AZURITE_ACCOUNTS="+Account+":"+Key)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	s := &Server{}
	told := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); {
			m := listening.FindStringSubmatch(lines.Text())
			if m == nil {
				continue
			}
			switch m[1] {
			case "Blob":
				s.Blobs = m[2] + "/" + Account
			case "Queue":
				s.Queues = m[2] + "/" + Account
			case "Table":
				s.Tables = m[2] + "/" + Account
			}
			if n++; n == 3 {
				close(told)
			}
		}
	}()
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Fatal("azurite does not begin to listen")
	}
	credential, err := azblob.NewSharedKeyCredential(Account, Key)
	if err != nil {
		t.Fatal(err)
	}
	if s.container, err = container.NewClientWithSharedKeyCredential(s.Blobs+"/"+Container, credential, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.container.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// URL is that of a container of the server, with credentials.
func (s *Server) URL(name string) string { return s.url(name, Key) }

// WrongURL has credentials that the server does not know.
func (s *Server) WrongURL() string { return s.url(Container, "c2VjcmV0") }

func (s *Server) url(name, key string) string {
	u := url.URL{Scheme: "azblob", Host: name, User: url.UserPassword(Account, key), RawQuery: url.Values{"endpoint": {s.Blobs}}.Encode()}
	return u.String()
}

// Put writes a blob.
func (s *Server) Put(t *testing.T, key, content, attempt string) {
	t.Helper()
	o := &azblob.UploadBufferOptions{}
	if attempt != "" {
		o.Metadata = map[string]*string{"waybill_attempt": to.Ptr(attempt)}
	}
	if _, err := s.container.NewBlockBlobClient(escape(key)).UploadBuffer(t.Context(), []byte(content), o); err != nil {
		t.Fatal(err)
	}
}

// Remove deletes a blob.
func (s *Server) Remove(t *testing.T, key string) {
	t.Helper()
	if _, err := s.container.NewBlobClient(escape(key)).Delete(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// special are characters of a name that its place in a URL does not hold.
var special = regexp.MustCompile(`[?#%]`)

// escape writes them as the portable reader of blobs does.
func escape(key string) string {
	return special.ReplaceAllStringFunc(key, func(c string) string {
		return map[string]string{"?": "__0x3f__", "#": "__0x23__", "%": "__0x25__"}[c]
	})
}
