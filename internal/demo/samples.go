package demo

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Sample is a file that arrives.
type Sample struct {
	Key     string
	Content []byte
}

// Header is the first line of an order file.
const Header = "order,time,region,product,quantity,unit_price,currency"

// shop is where orders come from.
type shop struct {
	name, prefix string
	rows         int
	currencies   []string // one is drawn evenly, so a frequent one is there twice
	broken       int      // rows that cannot be used
}

var shops = []shop{
	{name: "berlin", prefix: "BER", rows: 4200, currencies: []string{"EUR"}},
	{name: "leeds", prefix: "LEE", rows: 2900, currencies: []string{"GBP"}},
	{name: "lyon", prefix: "LYO", rows: 3600, currencies: []string{"EUR"}},
	{name: "porto", prefix: "POR", rows: 2400, currencies: []string{"EUR"}},
	{name: "web", prefix: "WEB", rows: 7800, currencies: []string{"EUR", "EUR", "EUR", "GBP", "GBP", "USD", "CHF"}, broken: 9},
}

var regions = []string{"north", "east", "south", "west", "islands"}

var products = []struct {
	name  string
	price float64
}{
	{"espresso beans", 14.90}, {"filter beans", 12.50}, {"decaf beans", 13.80}, {"green tea", 7.20}, {"black tea", 6.40},
	{"rooibos", 5.90}, {"hand grinder", 64.00}, {"kettle", 48.50}, {"dripper", 19.90}, {"paper filters", 4.30},
	{"mug", 11.00}, {"scale", 39.00}, {"moka pot", 32.50}, {"gift box", 24.00},
}

// Samples returns order files of one day, the same for the same seed: thousands
// of rows each, a few returns among them, and in one file some rows that are
// broken in the ways such files are.
func Samples(seed uint64) []Sample {
	day := time.Date(2026, time.March, 2, 0, 0, 0, 0, time.UTC)
	out := make([]Sample, len(shops))
	for i, s := range shops {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		out[i] = Sample{Key: s.name + "-" + day.Format(time.DateOnly) + ".csv", Content: s.orders(r, day)}
	}
	return out
}

func (s shop) orders(r *rand.Rand, day time.Time) []byte {
	rows := s.rows + r.IntN(s.rows/10)
	favour := r.IntN(len(regions)) // every shop sells most where it is
	at := make([]time.Duration, rows)
	for i := range at {
		// Around noon, between eight and eight, and seldom later.
		hour := 12.5 + r.NormFloat64()*3
		at[i] = time.Duration(math.Min(math.Max(hour, 0), 23.99) * float64(time.Hour)).Truncate(time.Second)
	}
	slices.Sort(at)
	// Row 0 is whole: that a row repeats the one before needs one before.
	broken := map[int]int{}
	for kind := 0; kind < s.broken; {
		if i := 1 + r.IntN(rows-1); broken[i] == 0 {
			kind++
			broken[i] = kind
		}
	}
	var b bytes.Buffer
	b.WriteString(Header + "\n")
	last := ""
	for i := range rows {
		p := products[min(r.IntN(len(products)), r.IntN(len(products)))] // the first ones sell best
		region := regions[r.IntN(len(regions))]
		if r.IntN(3) == 0 {
			region = regions[favour]
		}
		quantity := 1 + int(r.ExpFloat64()*1.6)
		if r.IntN(33) == 0 {
			quantity = -1
		}
		price := p.price * []float64{1, 1, 1, 0.9, 0.8}[r.IntN(5)] // some are on offer
		row := fmt.Sprintf("%s-%06d,%s,%s,%s,%d,%.2f,%s", s.prefix, i+1, day.Add(at[i]).Format(time.RFC3339), region, p.name,
			quantity, price, s.currencies[r.IntN(len(s.currencies))])
		if kind := broken[i]; kind > 0 {
			row = spoil(row, last, kind)
		} else {
			last = row
		}
		b.WriteString(row + "\n")
	}
	return b.Bytes()
}

// spoil breaks a row in one of several ways.
func spoil(row, before string, kind int) string {
	f := strings.Split(row, ",")
	switch kind % 7 {
	case 0: // sent twice
		return before
	case 1: // a comma where a point belongs
		f[5] = strings.Replace(f[5], ".", ",", 1)
	case 2: // cut off
		return row[:len(row)/2]
	case 3: // a word instead of a number
		f[4] = "two"
	case 4: // nothing where the region stands
		f[2] = ""
	case 5: // a currency without a rate
		f[6] = "XXX"
	case 6: // another writing of times
		f[1] = "02.03.2026 14:05"
	}
	return strings.Join(f, ",")
}
