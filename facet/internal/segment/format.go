// Package segment is one immutable file of the facet engine: documents as ordinals, columns, postings and
// compressed sources. It knows bytes and numbers; what they mean is known to the package above.
//
// The layout of the file is described in facet/FORMAT.md.
package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Magic begins and ends a segment's file.
const Magic = "WBFACET1"

const (
	trailerLen = 40
	entryLen   = 24
	version    = 1
)

// part is a kind of section.
type part uint16

const (
	partMeta     part = iota + 1 // of a field: see fieldMeta
	partDict                     // sorted keys
	partCol                      // ids of documents or of runs; of a list, where each document's begin
	partVals                     // of a list, the ids
	partTuples                   // different lists of ids
	partPost                     // documents of each id
	partRuns                     // where runs of a group begin
	partRank                     // of ids: place of each document
	partPerm                     // of ids: document at each place
	partVersions                 // versions of documents
	partSource                   // compressed sources
	partBlocks                   // where the blocks of sources are
)

var partNames = map[part]string{
	partMeta: "meta", partDict: "dictionary", partCol: "column", partVals: "values", partTuples: "tuples", partPost: "postings",
	partRuns: "runs", partRank: "ranks", partPerm: "order", partVersions: "versions", partSource: "source", partBlocks: "source blocks",
}

// idField is the number under which sections of ids, versions and sources are found.
const idField = 0xffff

// DictKind is how keys are stored.
type DictKind uint8

// The kinds. Strings become uuids on disk if all of them are.
const (
	Strings DictKind = iota // bytes, front-coded
	Fixed8                  // a big-endian uint64
	Fixed16                 // two of them
	uuids                   // 36 characters as 16 bytes
)

type layout uint8

const (
	single layout = iota // one id a document
	tuples               // one number of a list of ids a document
	lists                // a list of ids a document
	none                 // nothing: a field that has postings only
)

const (
	postBlob uint8 = iota // one encoded set for each id
	postFlat              // documents of all ids, one behind the other
)

// fieldMeta describes a field. It is written as it stands, 32 bytes.
type fieldMeta struct {
	dict   DictKind
	layout layout
	width  uint8 // bytes of a number in partCol
	post   uint8
	group  uint32 // of runs, +1; 0 without
	nd     uint32 // keys
	nt     uint32 // tuples
	total  uint32 // ids of all documents together
	nposts uint32
}

func (m fieldMeta) append(b []byte) []byte {
	b = append(b, byte(m.dict), byte(m.layout), m.width, m.post)
	for _, x := range []uint32{m.group, m.nd, m.nt, m.total, m.nposts, 0, 0} {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

func readMeta(b []byte) (m fieldMeta, ok bool) {
	if len(b) != 32 {
		return m, false
	}
	u := func(i int) uint32 { return binary.LittleEndian.Uint32(b[i:]) }
	m = fieldMeta{dict: DictKind(b[0]), layout: layout(b[1]), width: b[2], post: b[3], group: u(4), nd: u(8), nt: u(12), total: u(16), nposts: u(20)}
	return m, m.dict <= uuids && m.layout <= none && m.post <= postFlat && (m.width == 1 || m.width == 2 || m.width == 4)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Corrupt says that a file is not what was written. Readers panic with it; see Reader.
type Corrupt struct {
	File string
	What string
}

// Error implements error.
func (c *Corrupt) Error() string { return fmt.Sprintf("%s: %s", c.File, c.What) }

type section struct {
	part  part
	field uint16
	crc   uint32
	off   uint64
	len   uint64
}

// Tune is what the layout of a segment depends on. Readers do not need it: any choice makes a valid
// file. It is changed by tests only, before anything is built, so that small segments look like large ones.
var Tune = struct {
	MinRun    int // documents of a run, on average, for which runs are worth it
	MaxRows   int // different rows of a field with several values; with more, and more than an eighth of the documents, documents keep lists
	SmallDocs int // documents up to which a segment is written without runs and with plain postings
	MinBitmap int // documents from which on a posting list is a bitmap
	Block     int // bytes of sources in a block, before compression
}{MinRun: 6, MaxRows: 1 << 16, SmallDocs: 1 << 13, MinBitmap: 64, Block: 32 << 10}
