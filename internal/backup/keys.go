package backup

import (
	"bytes"
	"io"
	"os"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/waybill-run/waybill"
)

// The ways to save keys, besides the recipient that they are encrypted for.
const (
	KeysNone  = "none"
	KeysPlain = "plain"
)

// CheckKeys refuses what is neither of the ways to save keys nor a recipient.
func CheckKeys(keys string) error {
	if keys == KeysNone || keys == KeysPlain {
		return nil
	}
	if _, err := age.ParseX25519Recipient(keys); err != nil {
		return waybill.E(waybill.KindInvalid, "keys %.80q: want none, plain or a recipient of age", keys).
			WithHint("make an identity with age-keygen and name its public key, age1…")
	}
	return nil
}

// Encrypt encrypts a key for a recipient.
func Encrypt(text []byte, to string) ([]byte, error) {
	r, err := age.ParseX25519Recipient(to)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r)
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	return out.Bytes(), err
}

// Identities reads a file of identities as age-keygen writes it.
func Identities(path string) ([]age.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, waybill.E(waybill.KindNotFound, "%w", err).WithOp("read identities", path)
	}
	defer f.Close() // it was only read
	ids, err := age.ParseIdentities(f)
	if err != nil {
		return nil, waybill.E(waybill.KindInvalid, "%w", err).WithOp("read identities", path)
	}
	return ids, nil
}

// Pack writes what f writes into a file, compressed.
func Pack(path string, f func(io.Writer) error) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1))
	if err == nil {
		err = f(z)
		if cerr := z.Close(); err == nil {
			err = cerr
		}
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// Unpack gives f what Pack wrote.
func Unpack(path string, f func(io.Reader) error) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close() // it was only read
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	return f(z)
}
