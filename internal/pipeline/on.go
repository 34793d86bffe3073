package pipeline

import (
	"fmt"
	"strings"
)

// On says what starts a pipeline.
type On struct {
	HTTP    bool // a start by request; also when the definition has no "on"
	Objects []ObjectTrigger
}

// ObjectTrigger starts a run for every object that arrives in a bucket.
type ObjectTrigger struct {
	Bucket string
	// Match is a pattern for the key: * stands for any characters but /, ? for one
	// such character, ** for any characters, **/ also for nothing. "**" matches all.
	Match string
}

// Matches reports whether an arrived object starts a run.
func (t ObjectTrigger) Matches(bucket, key string) bool {
	return t.Bucket == bucket && (t.Match == "" || glob(t.Match, key))
}

// glob keeps the set of pattern offsets that the key read so far can end at, so
// it takes at most len(pattern) × len(key) steps.
func glob(pattern, key string) bool {
	n := len(pattern)
	cur, next := make([]bool, n+1), make([]bool, n+1)
	// skip marks what can be reached without reading a character. "**/" stands for
	// nothing only where a part of the key begins.
	skip := func(set []bool, begins bool) {
		for i := range n {
			switch {
			case !set[i] || pattern[i] != '*':
			case strings.HasPrefix(pattern[i:], "**"):
				set[i+2] = true
				if begins && strings.HasPrefix(pattern[i:], "**/") {
					set[i+3] = true
				}
			default:
				set[i+1] = true
			}
		}
	}
	cur[0] = true
	skip(cur, true)
	for k := range len(key) {
		c := key[k]
		clear(next)
		for i := range n {
			switch {
			case !cur[i]:
			case strings.HasPrefix(pattern[i:], "**"):
				next[i] = true
			case pattern[i] == '*':
				next[i] = next[i] || c != '/'
			case pattern[i] == '?':
				next[i+1] = next[i+1] || c != '/'
			case pattern[i] == c:
				next[i+1] = true
			}
		}
		skip(next, c == '/')
		cur, next = next, cur
	}
	return cur[n]
}

func (d *definition) on(n *node) {
	p := d.plan
	if n == nil {
		p.On.HTTP = true
		return
	}
	if !d.object("on", n, onKeys) {
		return
	}
	if len(n.fields) == 0 {
		d.add(n.at, "write on: {http: {}}", "on names nothing that starts the pipeline")
	}
	if h := n.get("http"); h != nil {
		p.On.HTTP = true
		if h.kind != kindNull {
			d.object("on.http", h, httpKeys)
		}
	}
	o := n.get("object")
	if o == nil {
		return
	}
	if o.kind != kindList {
		d.objectTrigger("on.object", o)
		return
	}
	if len(o.list) == 0 {
		d.add(o.at, "", "on.object is empty")
	}
	for i, x := range o.list {
		d.objectTrigger(fmt.Sprintf("on.object[%d]", i), x)
	}
}

func (d *definition) objectTrigger(what string, n *node) {
	if !d.object(what, n, objectKeys) {
		return
	}
	t := ObjectTrigger{Match: "**"}
	if b := n.get("bucket"); b == nil {
		d.add(n.at, "", "%s has no bucket", what)
	} else {
		t.Bucket, _ = d.name(what+".bucket", b, 63)
	}
	if m := n.get("match"); m != nil {
		s, ok := d.str(what+".match", m)
		if ok && (s == "" || len(s) > 1024) {
			d.add(m.at, "", "%s.match: expected a pattern of 1 to 1024 bytes", what)
		}
		t.Match = s
	}
	d.plan.On.Objects = append(d.plan.On.Objects, t)
}
