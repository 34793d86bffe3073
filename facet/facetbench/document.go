package facetbench

import (
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// Document is one generated document. One that [Documents] yields is valid until
// the next is asked for; its slices may be shared and are not to be changed.
type Document struct {
	Number int // from 0
	ID     string
	// Values are the values of each keyword field, as numbers for [Term], ascending.
	Values [len(Fields)][]uint32
	// Numbers are whole but for the score, which is in millionths. Dates are
	// microseconds since 1970. Has says which are there.
	Numbers [numbers]int64
	Has     [numbers]bool
	// Age in seconds, both ends included, if HasAge.
	AgeFrom, AgeTo int64
	HasAge         bool
	Name           string
	Words          []string // distinct
}

// Documents makes n documents. The first n of a larger number are the same.
//
// The sequence can be run through as often as wanted, also at the same time.
func Documents(n int) iter.Seq[*Document] {
	return func(yield func(*Document) bool) {
		g := newGenerator()
		for i := range n {
			if !yield(g.next(i)) {
				return
			}
		}
	}
}

// generator is the state of one run.
type generator struct {
	rnd      *rand.Rand
	zipf     [len(Fields)]*rand.Zipf
	projects []project
	which    *rand.Zipf // of the projects

	left   int // documents that are still to be made of this bundle
	bundle int
	serial int // of the document in its bundle
	run    string
	doc    Document
	own    [len(Fields)][]uint32 // buffers of the fields of documents
	buf    []byte
}

type project struct {
	values    [len(Fields)][]uint32
	donors    int64
	submitted int64
	title     []string
}

func newGenerator() *generator {
	g := &generator{rnd: rand.New(rand.NewPCG(42, 42))}
	for f := range Fields {
		if fd := &Fields[f]; fd.Skew > 0 {
			g.zipf[f] = rand.NewZipf(g.rnd, fd.Skew, 1, uint64(fd.Values-1))
		}
	}
	g.which = rand.NewZipf(g.rnd, 1.05, 2, Projects-1)
	g.projects = make([]project, Projects)
	for i := range g.projects {
		p := &g.projects[i]
		for f := range Fields {
			if Fields[f].Level == OfProject {
				p.values[f] = slices.Clone(g.draw(f, nil))
				if Fields[f].Skew == 0 {
					p.values[f] = []uint32{uint32(i)}
				}
			}
		}
		p.donors = 1 + int64(math.Exp(g.rnd.NormFloat64()*1.5+2))
		p.submitted = firstDay + g.rnd.Int64N(3000)*day + g.rnd.Int64N(day)
		for w := range 3 + g.rnd.IntN(3) {
			if t := string(word(nil, mix(uint64(i*8+w)|1<<50))); !slices.Contains(p.title, t) {
				p.title = append(p.title, t)
			}
		}
	}
	return g
}

const day = int64(24 * time.Hour / time.Microsecond)

// firstDay is 2016-01-01.
const firstDay = 16801 * day

// draw takes values of a field into buf.
func (g *generator) draw(f int, buf []uint32) []uint32 {
	fd := &Fields[f]
	buf = buf[:0]
	if fd.Skew == 0 || fd.Null > 0 && g.rnd.Float64() < fd.Null {
		return buf
	}
	n := 1
	if fd.More > 0 {
		for stop := 1 / (1 + fd.More); n < maxValues && g.rnd.Float64() >= stop; {
			n++
		}
	}
	for range n {
		v := uint32(g.zipf[f].Uint64())
		if i, found := slices.BinarySearch(buf, v); !found {
			buf = slices.Insert(buf, i, v)
		}
	}
	return buf
}

func (g *generator) next(number int) *Document {
	d := &g.doc
	d.Number = number
	if g.left == 0 {
		g.nextBundle()
	}
	g.left--
	for f := range Fields {
		if Fields[f].Level == OfDocument {
			g.own[f] = g.draw(f, g.own[f])
			d.Values[f] = g.own[f]
		}
	}
	d.ID = g.uuid()
	d.Numbers[Size] = int64(math.Exp(sizeMu + sizeSigma*g.rnd.NormFloat64()))
	d.Has[Size] = true
	d.Has[Cells] = g.rnd.Float64() < 0.15
	d.Numbers[Cells] = int64(math.Exp(8 + 1.5*g.rnd.NormFloat64()))
	d.Has[Score] = g.rnd.Float64() < 0.7
	d.Numbers[Score] = g.rnd.Int64N(1_000_000)
	g.name(d)
	g.serial++
	return d
}

func (g *generator) nextBundle() {
	d := &g.doc
	g.bundle++
	g.serial = 0
	g.left = 1 + min(int(g.rnd.ExpFloat64()*19.5), 400) // a mean of 20
	p := &g.projects[g.which.Uint64()]
	for f := range Fields {
		switch Fields[f].Level {
		case OfProject:
			d.Values[f] = p.values[f]
		case OfBundle:
			d.Values[f] = g.draw(f, d.Values[f])
		}
	}
	d.Numbers[Donors], d.Has[Donors] = p.donors, true
	d.Numbers[Submitted], d.Has[Submitted] = p.submitted, true
	d.Numbers[Updated], d.Has[Updated] = p.submitted+g.rnd.Int64N(600*day), true
	const year = 365 * 86400
	d.HasAge = g.rnd.Float64() < 0.6
	d.AgeFrom = g.rnd.Int64N(90) * year
	d.AgeTo = d.AgeFrom
	if g.rnd.IntN(3) == 0 {
		d.AgeTo += (1 + g.rnd.Int64N(15)) * year
	}
	g.run = "err" + strconv.FormatInt(1_000_000+int64(mix(uint64(g.bundle))%8_000_000), 10)
	d.Words = append(append(d.Words[:0], g.run), p.title...)
}

// name gives the document a name, and its words beside those of the bundle.
func (g *generator) name(d *Document) {
	title := len(g.title())
	d.Words = d.Words[:1+title]
	lane, read, format := g.serial/4, g.serial%4, d.Values[FieldFormat]
	ext := "bin"
	if len(format) > 0 {
		ext = string(word(g.buf[:0], mix(uint64(format[0]))))
	}
	b := append(g.buf[:0], g.run...)
	b = append(b, "_s"...)
	b = strconv.AppendInt(b, int64(g.bundle), 10)
	b = append(b, "_l"...)
	b = strconv.AppendInt(b, int64(lane), 10)
	b = append(b, "_r"...)
	b = strconv.AppendInt(b, int64(read), 10)
	b = append(b, '.')
	b = append(b, ext...)
	d.Name = string(b)
	g.buf = b
	for _, w := range []string{"l" + strconv.Itoa(lane), "r" + strconv.Itoa(read), ext} {
		if !slices.Contains(d.Words, w) {
			d.Words = append(d.Words, w)
		}
	}
}

// FieldFormat is the field that a file's extension is made of.
var FieldFormat = FieldNamed("format")

func (g *generator) title() []string { return g.projects[g.doc.Values[0][0]].title }

// uuid makes a random one (version 4).
func (g *generator) uuid() string {
	const hex = "0123456789abcdef"
	hi, lo := g.rnd.Uint64(), g.rnd.Uint64()
	hi = hi&^0xf000 | 0x4000
	lo = lo&^(3<<62) | 1<<63
	b := g.buf[:0]
	for i := range 16 {
		b = append(b, hex[hi>>(60-4*i)&15])
		if i == 7 || i == 11 || i == 15 {
			b = append(b, '-')
		}
	}
	for i := range 16 {
		b = append(b, hex[lo>>(60-4*i)&15])
		if i == 3 {
			b = append(b, '-')
		}
	}
	g.buf = b
	return string(b)
}

// AppendJSON appends the document as a line of JSON, without the end of the line.
// Absent values are null where a field has one value, and left out where it can have
// several.
func (d *Document) AppendJSON(b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, d.ID...)
	b = append(b, `","name":"`...)
	b = append(b, d.Name...)
	b = append(b, '"')
	for f := range Fields {
		vs := d.Values[f]
		if !Fields[f].Multi() {
			b = key(b, Fields[f].Name)
			if len(vs) == 0 {
				b = append(b, "null"...)
			} else {
				b = quote(b, Term(f, vs[0]))
			}
			continue
		}
		if len(vs) == 0 {
			continue
		}
		b = append(key(b, Fields[f].Name), '[')
		for i, v := range vs {
			if i > 0 {
				b = append(b, ',')
			}
			b = quote(b, Term(f, v))
		}
		b = append(b, ']')
	}
	for i, name := range NumberFields {
		if !d.Has[i] {
			continue
		}
		b = key(b, name)
		switch i {
		case Submitted, Updated:
			b = append(b, '"')
			b = time.UnixMicro(d.Numbers[i]).UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
			b = append(b, '"')
		case Score:
			b = strconv.AppendFloat(b, float64(d.Numbers[i])/1e6, 'f', -1, 64)
		default:
			b = strconv.AppendInt(b, d.Numbers[i], 10)
		}
	}
	if d.HasAge {
		b = append(key(b, AgeField), `{"gte":`...)
		b = strconv.AppendInt(b, d.AgeFrom, 10)
		b = append(b, `,"lte":`...)
		b = append(strconv.AppendInt(b, d.AgeTo, 10), '}')
	}
	b = append(key(b, WordsField), '[')
	for i, w := range d.Words {
		if i > 0 {
			b = append(b, ',')
		}
		b = quote(b, w)
	}
	return append(b, "]}"...)
}

func key(b []byte, name string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

// quote writes a string in which nothing needs to be escaped.
func quote(b []byte, s string) []byte {
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
