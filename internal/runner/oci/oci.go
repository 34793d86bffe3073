// Package oci runs units as containers of this machine without a daemon: it pulls and
// unpacks images itself and starts them with an OCI runtime, runc or crun.
//
// A unit is a folder below Options.Dir: what it is made of, the changes it makes to its
// root file system, and how it ended. What it is made of is written there before anything
// else is done for it, so that whatever is killed, and whenever, the next server finds
// what there is to be removed. The program that starts it is a unit of another runner,
// Options.Inner, that hands over to the process of the container; that one keeps it alive,
// its log and its end when no server is there. What the runtime is told, which holds the
// environment, is written to memory and removed as soon as the runtime has read it.
//
// As root a unit has a file system of overlays, limits by control groups, and a bridge
// of its own for its network. Without privileges it has a user namespace with one user, a
// copy of its image that shares the content of its files where they cannot be written,
// and the network of the machine or none.
//
// The package needs Linux. Elsewhere [New] returns an error of kind unsupported.
package oci

import (
	"encoding/json"
	"log/slog"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Name is the name of this runner in definitions.
const Name = "oci"

// Config is what waybill.yaml says under runners: oci.
type Config struct {
	Root       string          `json:"root" doc:"folder of images and units" default:"the folder oci of the data directory"`
	Quota      container.Size  `json:"quota" doc:"room for unpacked images; those not used for longest go first" default:"20GiB"`
	Runtime    string          `json:"runtime" doc:"the OCI runtime: a name in PATH or a path; else runc, then crun, whichever works here" example:"runc"`
	Subnet     string          `json:"subnet" doc:"addresses of the bridge; else a free part of 172.16.0.0/12" example:"172.29.8.0/22"`
	Masquerade *bool           `json:"masquerade" doc:"units on the bridge reach beyond this machine" default:"true"`
	Insecure   []string        `json:"insecure_registries" doc:"registries asked over HTTP or with a certificate that is not checked; those of this machine always are" example:"[\"registry.lan:5000\"]"`
	Largest    container.Size  `json:"largest_image" doc:"room that one image may take unpacked" default:"the quota"`
	Pull       runner.Duration `json:"pull_timeout" doc:"how long one pull may take" default:"15m"`
}

// Options are the settings of a [Runner].
type Options struct {
	Config
	// Dir is the folder of images and units if Config.Root names none.
	Dir string
	// Inner runs the programs that start units. It takes a With as package process does
	// with Options.Handover, and belongs to this runner, which closes it.
	Inner runner.Runner
	// Logger receives what an operator should know. Nil means nothing is logged.
	Logger *slog.Logger
}

// Definition checks the steps of a definition and describes their settings, on any
// platform. It starts nothing: all other methods are missing.
type Definition struct{ runner.Contained }

// Name returns [Name].
func (Definition) Name() string { return Name }

// Settings implements [runner.Described].
func (Definition) Settings() any { return container.Settings{} }

// Check implements [runner.Runner].
func (Definition) Check(args []string, with json.RawMessage) error {
	var s container.Settings
	if err := runner.DecodeOpen(with, &s); err != nil {
		return err
	}
	if err := s.Check(true); err != nil {
		return err
	}
	return checkArgs(args, &s)
}

func checkArgs(args []string, s *container.Settings) error {
	for i, a := range args {
		if strings.ContainsRune(a, 0) {
			return waybill.E(waybill.KindInvalid, "run: argument %d contains a zero byte", i)
		}
	}
	if len(args) > 0 && args[0] == "" {
		return waybill.E(waybill.KindInvalid, "run: a program is needed")
	}
	if len(args) > 0 && len(s.Args) > 0 {
		return waybill.E(waybill.KindInvalid, "args: they are for the entrypoint of the image, which run replaces")
	}
	return nil
}
