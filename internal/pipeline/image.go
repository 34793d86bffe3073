package pipeline

import (
	"slices"
	"strings"
)

// readImage sees to it that a step with an image is made by a runner of images.
func (d *definition) readImage(s *Step, what string, n, image *node) {
	if s.Runner == DefaultRunner && n.get("runner") == nil {
		if s.Runner = d.opts.ImageRunner; s.Runner == "" {
			s.Runner = DefaultRunner
			hint := "install runc or Docker"
			if len(d.opts.Images) > 0 {
				hint += ", or name the runner: " + strings.Join(d.opts.Images, ", ")
			}
			d.add(image.at, hint, "%s has an image, and no runner of containers answers here", what)
		}
	} else if !slices.Contains(d.opts.Images, s.Runner) && slices.Contains(d.opts.Runners, s.Runner) {
		d.add(image.at, "", "%s has an image, which the runner %s does not use", what, s.Runner)
	}
	if with := n.get("with"); with != nil && with.get("image") != nil {
		d.add(with.get("image").at, "", "%s has two images", what)
	}
}

// withImage is the "with" of a step, with its image in it: the image is one of the
// settings that a runner of containers reads, and only stands where people look for it.
func withImage(n *node) *node {
	with, image := n.get("with"), n.get("image")
	if image == nil || with != nil && with.kind != kindMap {
		return with
	}
	x := &node{kind: kindMap, at: image.at, fields: []field{{key: "image", at: image.at, val: image}}}
	if with != nil {
		x.at = with.at
		for _, f := range with.fields {
			if f.key != "image" {
				x.fields = append(x.fields, f)
			}
		}
	}
	return x
}
