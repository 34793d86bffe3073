package backup_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/backup"
)

func TestEncryptedKeys(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := backup.CheckKeys(id.Recipient().String()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "all", id.String(), "age1nonsense"} {
		if err := backup.CheckKeys(bad); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("keys %q: %v", bad, err)
		}
	}
	sealed, err := backup.Encrypt([]byte("the secret"), id.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("the secret")) {
		t.Error("the key can be read")
	}
	list := sample()
	list[1] = text(backup.KindKey, "secret"+backup.Encrypted, string(sealed))
	dir := t.TempDir()
	path := filepath.Join(dir, "b.tar.zst")
	if _, err := backup.KeepArchive(t.Context(), bytes.NewReader(archive(t, nil, list...)), path); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "identity")
	if err := os.WriteFile(file, []byte("# mine\n"+id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options(t, filepath.Join(dir, "with"))
	if o.Identities, err = backup.Identities(file); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), path, o); err != nil {
		t.Fatal(err)
	}
	if got := content(t, filepath.Join(o.Data, "secret")); got != "the secret" {
		t.Errorf("the key: %q", got)
	}
	// Without an identity the rest is restored; with a wrong one nothing is.
	o = options(t, filepath.Join(dir, "without"))
	if _, err := backup.Restore(t.Context(), path, o); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(o.Data, "secret")); err == nil {
		t.Error("a key without an identity")
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	o = options(t, filepath.Join(dir, "wrong"))
	o.Identities = []age.Identity{other}
	if _, err := backup.Restore(t.Context(), path, o); !waybill.IsKind(err, waybill.KindForbidden) {
		t.Errorf("with a wrong identity: %v", err)
	}
}
