package httpd

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func (a api) ListBuckets(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		names, err := v.Objects.Buckets(r.Context())
		if err != nil {
			return err
		}
		watched, err := v.Watches.WatchedBuckets(r.Context())
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.BucketList{Items: list(names), Watched: watched})
	})
}

func (a api) ListObjects(w http.ResponseWriter, r *http.Request, bucket string, p openapi.ListObjectsParams) {
	a.do(w, r, func(v *Services, c *call) error {
		n, err := pageSize(r, p.Limit)
		if err != nil {
			return err
		}
		page, err := v.Objects.ObjectList(r.Context(), bucket, p.Prefix, n, p.Cursor)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.ObjectList{Items: convert(page.Items, wireObject), NextCursor: nextCursor(page.Next)})
	})
}

func (a api) PutObject(w http.ResponseWriter, r *http.Request, bucket, key string, p openapi.PutObjectParams) {
	a.do(w, r, func(v *Services, c *call) error {
		c.stream = true
		if err := checkObjectKey(key); err != nil {
			return err
		}
		if err := checkKey(r); err != nil {
			return err
		}
		limit := a.opt.Limits.Object
		if r.ContentLength > limit {
			return waybill.E(waybill.KindTooLarge, "the object has %d bytes, the limit is %d", r.ContentLength, limit)
		}
		want, err := digest(r.Header.Get("Content-Digest"))
		if err != nil {
			return err
		}
		body := io.Reader(http.MaxBytesReader(w, r.Body, limit))
		if want != "" {
			body = &verified{r: body, h: sha256.New(), want: want}
		}
		moving := &movingBody{r: body, rc: http.NewResponseController(w), idle: a.opt.Limits.Read}
		o, err := v.Objects.PutObject(r.Context(), waybill.Object{
			Tenant: c.who.Tenant, Bucket: bucket, Key: key, Size: r.ContentLength, SHA256: want,
			ContentType: r.Header.Get("Content-Type"), CreatedBy: c.who.Name,
		}, moving, p.IdempotencyKey, c.who)
		if moving.err != nil {
			return moving.err
		}
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusCreated, wireObject(o))
	})
}

func checkObjectKey(key string) error {
	if key == "" || len(key) > 1024 {
		return waybill.E(waybill.KindInvalid, "an object's key has 1 to 1024 bytes")
	}
	return nil
}

// digest returns the SHA-256 of a Content-Digest header in hex, empty when there
// is none. Other algorithms are left out, as RFC 9530 asks for.
func digest(header string) (string, error) {
	for part := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if !strings.EqualFold(name, "sha-256") {
			continue
		}
		sum, err := base64.StdEncoding.DecodeString(strings.Trim(value, ":"))
		if err != nil || len(sum) != sha256.Size || len(value) < 2 || value[0] != ':' || value[len(value)-1] != ':' {
			return "", waybill.E(waybill.KindMalformed, "Content-Digest does not hold a SHA-256, want sha-256=:BASE64:")
		}
		return hex.EncodeToString(sum), nil
	}
	return "", nil
}

// verified fails at the end of content that is not what its digest says.
type verified struct {
	r    io.Reader
	h    hash.Hash
	want string
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	if err == io.EOF {
		if got := hex.EncodeToString(v.h.Sum(nil)); got != v.want {
			return n, waybill.E(waybill.KindInvalid, "the content has the SHA-256 %s, Content-Digest says %s", got, v.want)
		}
	}
	return n, err
}

func (a api) GetObject(w http.ResponseWriter, r *http.Request, bucket, key string, p openapi.GetObjectParams) {
	a.object(w, r, bucket, key, p.Version)
}

func (a api) HeadObject(w http.ResponseWriter, r *http.Request, bucket, key string, p openapi.HeadObjectParams) {
	a.object(w, r, bucket, key, p.Version)
}

func (a api) object(w http.ResponseWriter, r *http.Request, bucket, key, version string) {
	a.do(w, r, func(v *Services, c *call) error {
		c.stream = true
		if err := checkObjectKey(key); err != nil {
			return err
		}
		o, content, err := v.Objects.OpenObject(r.Context(), bucket, key, version)
		if err != nil {
			return err
		}
		defer content.Close() // it was only read
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		if o.ContentType != "" {
			h.Set("Content-Type", o.ContentType)
		}
		h.Set("Waybill-Version", o.Version)
		serveContent(w, r, o.SHA256, o.CreatedAt, content)
		return nil
	})
}

// serveContent answers with content that comes from anywhere: a browser must neither run
// nor show it as a page of this server.
func serveContent(w http.ResponseWriter, r *http.Request, sha256 string, at time.Time, content io.ReadSeeker) {
	h := w.Header()
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Content-Disposition", "attachment")
	h.Set("Cache-Control", "private, no-cache")
	h.Set("ETag", `"`+sha256+`"`)
	if sum, err := hex.DecodeString(sha256); err == nil {
		h.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum)+":")
	}
	http.ServeContent(w, r, "", at, content)
}

func (a api) GetOutputFile(w http.ResponseWriter, r *http.Request, run, step, output string, p openapi.GetOutputFileParams) {
	a.do(w, r, func(v *Services, c *call) error {
		c.stream = true
		if p.Attempt < 0 {
			return waybill.E(waybill.KindInvalid, "attempt is not negative")
		}
		f, content, err := v.Runs.OutputFile(r.Context(), run, step, output, p.Attempt)
		if err != nil {
			return err
		}
		defer content.Close() // it was only read
		w.Header().Set("Content-Type", "application/octet-stream")
		serveContent(w, r, f.SHA256, time.Time{}, content)
		return nil
	})
}

func (a api) DeleteObject(w http.ResponseWriter, r *http.Request, bucket, key string) {
	a.do(w, r, func(v *Services, c *call) error {
		if err := checkObjectKey(key); err != nil {
			return err
		}
		if err := v.Objects.DeleteObject(r.Context(), bucket, key, c.who); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}
