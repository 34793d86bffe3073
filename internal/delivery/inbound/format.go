// Package inbound turns what tools send by themselves into reports of deliveries.
//
// A [Format] reads what one kind of tool sends; it is pure. [Inbound] does the rest, the
// same for all: who may send, what was received before, what of several objects of a
// cluster is to be told, and the report.
package inbound

import (
	"net/http"
	"time"

	"github.com/waybill-run/waybill"
)

// Source is a way in, as it is set up.
type Source struct {
	Name      string
	Format    string
	Secret    string // signs requests; it or parts of it may be ${secret:NAME}
	Token     string // must be in Authorization: Bearer; likewise
	Partition string
	Cluster   string // the one cluster that it speaks for
	Ring      string
	Stage     waybill.Stage // of runs whose stage is not said
}

// Request is what was sent. A format must not keep or change it.
type Request struct {
	Source Source
	Header http.Header
	Body   []byte
	Now    time.Time
}

// Note is one thing that was told. Its report is not complete: the partition is filled in
// for all, and see the other fields.
type Note struct {
	Report waybill.DeliveryReport
	// Object names what in a cluster a sync report is about, such as
	// "Kustomization/apps/web". A cluster is at a revision as far as the least of its
	// objects is; what an object said before, and what is older than what it said last,
	// is not reported again. Without it each note is a report.
	Object string
	// Begin: a row begins for the image and the ring of a sync report if there is none.
	Begin bool
	// Commit is the source commit that stands for the image of a sync report which names
	// none: it is that of the build of the commit. Fallback is its tag when no build of the commit is
	// known.
	Commit, Fallback string
}

// Parsed is what a request says.
type Parsed struct {
	// ID is the sender's own for what it sent, the same when it sends it again. Empty: the
	// body tells.
	ID      string
	Type    string // what the sender calls it
	Subject string // what it is about, for people
	Notes   []Note
	Reason  string // why there are no notes, when there are none
}

// Format reads what one kind of tool sends. Implementations are stateless and safe for
// concurrent use.
type Format interface {
	Name() string
	// Verify checks who sent a request by a secret that is not empty. KindUnauthorized.
	Verify(secret string, h http.Header, body []byte) error
	// Parse reads a request whose sender was found to be right. It is a function of
	// nothing but the request. KindMalformed: it cannot be read. KindInvalid: something
	// that is needed is missing; the message says what and where it is set up. What is
	// readable and tells of no delivery, now or in this version, has a Reason.
	Parse(r Request) (Parsed, error)
}
