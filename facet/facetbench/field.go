package facetbench

import (
	"math"
	"strconv"
	"sync"
)

// Level says what a field's values belong to.
type Level uint8

// A project has many bundles and a bundle has many documents. The values of a field
// are the same in all documents of what it belongs to.
const (
	OfProject Level = iota
	OfBundle
	OfDocument
)

// Field is a keyword field. Every one is a facet.
type Field struct {
	Name string
	// Values is how many distinct values there can be. Documents of one collection
	// need not have all of them.
	Values int
	// Skew is the exponent of the zipf distribution by which values are drawn. With
	// 0, which only fields of projects have, a project has its own value.
	Skew float64
	// More is the mean number of values beyond the first, where there are any. A
	// document has at most ten.
	More float64
	// Null is the share of projects, bundles or documents without a value.
	Null  float64
	Level Level
}

// Multi reports whether documents can have several values.
func (f *Field) Multi() bool { return f.More > 0 }

// maxValues is how many values a document can have in one field.
const maxValues = 10

// Projects is how many projects there are.
const Projects = 600

// Fields are the keyword fields: 13 of projects, 19 of bundles, 8 of documents.
var Fields = [40]Field{
	{Name: "project", Values: Projects, Level: OfProject},
	{Name: "project_title", Values: Projects, Level: OfProject},
	{Name: "source", Values: 450, Skew: 1.1, Level: OfProject},
	{Name: "institution", Values: 300, Skew: 1.2, More: 1.4, Level: OfProject},
	{Name: "laboratory", Values: 500, Skew: 1.15, More: 1, Null: 0.05, Level: OfProject},
	{Name: "contact", Values: 1500, Skew: 1.05, More: 1.6, Level: OfProject},
	{Name: "publication", Values: 800, Skew: 1.05, More: 0.5, Null: 0.3, Level: OfProject},
	{Name: "funder", Values: 120, Skew: 1.3, More: 0.7, Null: 0.4, Level: OfProject},
	{Name: "network", Values: 18, Skew: 1.3, More: 0.3, Null: 0.5, Level: OfProject},
	{Name: "atlas", Values: 30, Skew: 1.4, More: 0.3, Null: 0.7, Level: OfProject},
	{Name: "is_atlas_project", Values: 2, Skew: 1.8, Level: OfProject},
	{Name: "use_restriction", Values: 5, Skew: 1.8, Null: 0.1, Level: OfProject},
	{Name: "accession_space", Values: 12, Skew: 1.5, More: 0.9, Null: 0.15, Level: OfProject},

	{Name: "species", Values: 6, Skew: 1.8, More: 0.1, Level: OfBundle},
	{Name: "sex", Values: 4, Skew: 1.3, More: 0.2, Null: 0.05, Level: OfBundle},
	{Name: "organ", Values: 90, Skew: 1.2, More: 0.2, Level: OfBundle},
	{Name: "organ_part", Values: 350, Skew: 1.2, More: 0.3, Null: 0.3, Level: OfBundle},
	{Name: "organ_model", Values: 25, Skew: 1.4, Null: 0.9, Level: OfBundle},
	{Name: "sample_kind", Values: 4, Skew: 1.6, Level: OfBundle},
	{Name: "sample", Values: 40_000, Skew: 1.02, More: 0.5, Level: OfBundle},
	{Name: "sample_disease", Values: 220, Skew: 1.4, More: 0.3, Null: 0.15, Level: OfBundle},
	{Name: "donor", Values: 20_000, Skew: 1.02, More: 0.3, Level: OfBundle},
	{Name: "donor_disease", Values: 260, Skew: 1.4, More: 0.5, Null: 0.25, Level: OfBundle},
	{Name: "stage", Values: 60, Skew: 1.5, More: 0.1, Null: 0.05, Level: OfBundle},
	{Name: "ethnicity", Values: 40, Skew: 1.3, More: 0.2, Null: 0.6, Level: OfBundle},
	{Name: "preservation", Values: 8, Skew: 1.5, Null: 0.4, Level: OfBundle},
	{Name: "cell_type", Values: 650, Skew: 1.1, More: 1, Null: 0.45, Level: OfBundle},
	{Name: "cell_line_kind", Values: 5, Skew: 1.5, Null: 0.85, Level: OfBundle},
	{Name: "library", Values: 50, Skew: 1.4, More: 0.2, Level: OfBundle},
	{Name: "molecule", Values: 3, Skew: 1.8, Level: OfBundle},
	{Name: "instrument", Values: 45, Skew: 1.4, More: 0.2, Null: 0.05, Level: OfBundle},
	{Name: "paired", Values: 2, Skew: 1.5, Null: 0.1, Level: OfBundle},

	{Name: "format", Values: 70, Skew: 1.4, Level: OfDocument},
	{Name: "content", Values: 110, Skew: 1.3, More: 0.8, Null: 0.1, Level: OfDocument},
	{Name: "origin", Values: 12, Skew: 1.4, More: 0.1, Null: 0.1, Level: OfDocument},
	{Name: "intermediate", Values: 2, Skew: 1.8, Null: 0.5, Level: OfDocument},
	{Name: "workflow", Values: 160, Skew: 1.3, Null: 0.35, Level: OfDocument},
	{Name: "batch", Values: 4000, Skew: 1.05, Level: OfDocument},
	{Name: "read", Values: 6, Skew: 1.2, Null: 0.3, Level: OfDocument},
	{Name: "tag", Values: 100_000, Skew: 1.02, More: 2.5, Level: OfDocument},
}

// FieldNamed returns the position of the field with that name in [Fields], or -1.
func FieldNamed(name string) int {
	for i := range Fields {
		if Fields[i].Name == name {
			return i
		}
	}
	return -1
}

// The numbers, dates and the range of a document, beside its keyword fields.
const (
	Size      = iota // bytes of the file; every document has one
	Cells            // cells of a matrix; few documents have it
	Donors           // of the project
	Score            // a fraction of 1, the only float
	Submitted        // date of the project
	Updated          // date of the bundle
	numbers
)

// NumberFields are the names of the numbers and dates.
var NumberFields = [numbers]string{"size", "cells", "donors", "score", "submitted", "updated"}

// Names of the other fields.
const (
	AgeField   = "age"   // a range of seconds
	NameField  = "name"  // the name of the file, one document's own
	WordsField = "words" // what name and title consist of, to be found by a prefix
)

// terms are the values of each field, made when they are first asked for.
var terms = func() (all [len(Fields)]func() []string) {
	for f := range Fields {
		all[f] = sync.OnceValue(func() []string {
			out := make([]string, Fields[f].Values)
			for i := range out {
				out[i] = term(f, i)
			}
			return out
		})
	}
	return all
}()

// Term returns value number ord of field number f. Value 0 is the one drawn most
// often; the order of the strings is another.
func Term(f int, ord uint32) string { return terms[f]()[ord] }

// term invents a value: four to six words and a number that makes it the only one.
func term(f, ord int) string {
	x := mix(uint64(f)<<32 | uint64(ord))
	b := make([]byte, 0, 64)
	for w := range 4 + x%3 {
		if w > 0 {
			b = append(b, ' ')
		}
		x = mix(x)
		b = word(b, x)
	}
	b = append(b, ' ')
	return string(strconv.AppendInt(b, int64(ord), 36))
}

// word appends two to four syllables.
func word(b []byte, x uint64) []byte {
	const consonants, vowels = "bdfgklmnprstvz", "aeiou"
	n := 2 + x%3
	x >>= 2
	for range n {
		b = append(b, consonants[x%14], vowels[(x>>8)%5])
		x >>= 11
	}
	return b
}

// mix is the finaliser of splitmix64: a good hash of an integer.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// The size of files is log-normal.
const (
	sizeMu    = 16.0 // of the natural logarithm: a median of 8.9 MB
	sizeSigma = 2.5
)

// SizeBelow returns the size than which about the share p of all documents is
// smaller, for p in {0.01, 0.5}.
func SizeBelow(p float64) int64 {
	// The quantile function of the normal distribution.
	z := math.Sqrt2 * math.Erfinv(2*p-1)
	return int64(math.Exp(sizeMu + sizeSigma*z))
}
