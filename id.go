package waybill

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"sync"
	"time"
)

var idState struct {
	sync.Mutex
	last uint64 // milliseconds<<12 | sequence of the last id handed out
}

// NewID returns a UUID of version 7 (RFC 9562) for the instant now: ids of one
// process sort in the order in which they were made, even when the clock stands
// still or goes back. Safe for concurrent use.
func NewID(now time.Time) string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand does not fail on any supported platform
	}
	idState.Lock()
	next := uint64(now.UnixMilli()) << 12
	if next <= idState.last {
		next = idState.last + 1
	}
	idState.last = next
	idState.Unlock()
	binary.BigEndian.PutUint64(b[0:8], next>>12<<16)
	binary.BigEndian.PutUint16(b[6:8], 0x7000|uint16(next&0xfff))
	b[8] = b[8]&0x3f | 0x80
	var out [36]byte
	hex.Encode(out[0:8], b[0:4])
	hex.Encode(out[9:13], b[4:6])
	hex.Encode(out[14:18], b[6:8])
	hex.Encode(out[19:23], b[8:10])
	hex.Encode(out[24:36], b[10:16])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}

// IDTime is the instant that an id was made for, to the millisecond; later by some, when
// many were made at once or the clock had gone back. ok is false for what is no id of ours.
func IDTime(id string) (t time.Time, ok bool) {
	if len(id) != 36 || id[8] != '-' || id[13] != '-' || id[14] != '7' {
		return time.Time{}, false
	}
	ms, err := strconv.ParseInt(id[:8]+id[9:13], 16, 64)
	return time.UnixMilli(ms).UTC(), err == nil
}

// NewSecret returns 256 random bits in URL-safe base64, for tokens.
func NewSecret() string {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // see NewID
	}
	return base64.RawURLEncoding.EncodeToString(b[:])
}
