package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"filippo.io/age"

	"github.com/waybill-run/waybill"
)

// Key encrypts and decrypts the values of a store. It holds one or several age
// X25519 identities: the first encrypts, all of them decrypt, so that a key can be
// replaced while old ciphertexts are still there. Safe for concurrent use.
type Key struct {
	path    string // of a key that we keep; empty for one that was given
	mu      sync.Mutex
	ids     []*age.X25519Identity // empty until the key is made
	managed bool
}

// GivenKey reads a key as age-keygen writes it, or just its identities, one a line.
// where says in errors where it came from.
func GivenKey(text, where string) (*Key, error) {
	ids, err := parseKey(text)
	if err == nil && len(ids) == 0 {
		err = errors.New("it holds no AGE-SECRET-KEY-1… line")
	}
	if err != nil {
		return nil, waybill.E(waybill.KindInvalid, "%w", err).WithOp("read the key of secrets from", where).
			WithHint("make one with: age-keygen, or leave it out and the server makes its own")
	}
	return &Key{ids: ids}, nil
}

// KeyFile reads a key that was given as a file.
func KeyFile(path string) (*Key, error) {
	b, err := readSmall(path)
	if err != nil {
		return nil, waybill.E(waybill.KindInvalid, "%w", err).WithOp("read the key of secrets from", path)
	}
	return GivenKey(string(b), path)
}

// ManagedKey is a key in a file of ours, which is made with mode 0600 when a value is
// encrypted for the first time.
func ManagedKey(path string) (*Key, error) {
	k := &Key{path: path, managed: true}
	b, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		k.ids, err = parseKey(string(b))
	}
	if err != nil {
		return nil, waybill.E(waybill.KindInvalid, "%w", err).WithOp("read the key of secrets from", path)
	}
	return k, nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

// parseKey reads identities. An error never holds the text.
func parseKey(text string) ([]*age.X25519Identity, error) {
	var ids []*age.X25519Identity
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, err := age.ParseX25519Identity(line)
		if err != nil {
			return nil, fmt.Errorf("line %d is not an age X25519 identity (AGE-SECRET-KEY-1…)", n)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// recipients are the public halves, the one that encrypts first.
func (k *Key) recipients() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]string, len(k.ids))
	for i, id := range k.ids {
		out[i] = id.Recipient().String()
	}
	return out
}

// ready makes the key if it has none yet and may.
func (k *Key) ready() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.ids) > 0 {
		return nil
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	return k.write([]*age.X25519Identity{id})
}

// write replaces a managed key, durably. k.mu is held.
func (k *Key) write(ids []*age.X25519Identity) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# The key of this server's secrets, written %s. Whoever has it and the store can read them.\n", time.Now().UTC().Format(time.RFC3339))
	for _, id := range ids {
		fmt.Fprintf(&b, "# public key: %s\n%s\n", id.Recipient(), id)
	}
	fail := func(err error) error {
		return waybill.E(waybill.KindUnavailable, "%w", err).WithOp("write the key of secrets", k.path)
	}
	f, err := os.OpenFile(k.path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fail(err)
	}
	_, err = f.Write(b.Bytes())
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(k.path+".new", k.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(k.path))
	}
	if err != nil {
		return fail(err)
	}
	k.ids = ids
	return nil
}

// syncDir makes a rename in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// turn puts a new identity in front of a managed key, keeping the old ones until
// settle. A given key stays as it is: whoever gave it changes it.
func (k *Key) turn() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.managed {
		return nil
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	return k.write(append([]*age.X25519Identity{id}, k.ids...))
}

// settle forgets all identities of a managed key but the first.
func (k *Key) settle() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.managed || len(k.ids) < 2 {
		return nil
	}
	return k.write(k.ids[:1])
}

// seal encrypts a text for the first identity.
func (k *Key) seal(plain []byte) ([]byte, error) {
	k.mu.Lock()
	if len(k.ids) == 0 {
		k.mu.Unlock()
		return nil, waybill.E(waybill.KindInvalid, "there is no key")
	}
	to := k.ids[0].Recipient()
	k.mu.Unlock()
	var b bytes.Buffer
	w, err := age.Encrypt(&b, to)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	return b.Bytes(), err
}

// open decrypts what any of the identities can.
func (k *Key) open(sealed []byte) ([]byte, error) {
	k.mu.Lock()
	ids := make([]age.Identity, len(k.ids))
	for i, id := range k.ids {
		ids[i] = id
	}
	k.mu.Unlock()
	if len(ids) == 0 {
		return nil, errors.New("there is no key")
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), ids...)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
