package project

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/queue"
)

// Settings are those of a project, from waybill.yaml.
type Settings struct {
	Name      string    `yaml:"name"`
	Retention Retention `yaml:"retention"`
	Queue     Queue     `yaml:"queue"`
	Units     Units     `yaml:"units"`
	Callback  Callback  `yaml:"callback"`
}

// Retention says how long what is finished is kept.
type Retention struct {
	Runs    Duration `yaml:"runs"`    // finished runs with their logs and timelines
	Objects Duration `yaml:"objects"` // versions of objects that are not current; 0 keeps them
	Current Duration `yaml:"current"` // current versions; 0 keeps them
}

// Queue bounds what is accepted.
type Queue struct {
	HighWater int64 `yaml:"high_water"` // messages in a topic above which new work is refused
}

// Units bounds what runs on this server.
type Units struct {
	Max     int      `yaml:"max"`      // at once
	LogCap  int64    `yaml:"log_cap"`  // bytes of log kept of a unit
	BaseEnv []string `yaml:"base_env"` // variables of the server that units get, besides PATH and LANG
}

// Callback is about units that report.
type Callback struct {
	Grace Duration `yaml:"grace"` // how long a callback may come after its unit's end
}

// Duration is a time.Duration that is written like "90s", "10m" or "30d".
type Duration time.Duration

// UnmarshalYAML implements yaml.BytesUnmarshaler.
func (d *Duration) UnmarshalYAML(b []byte) error {
	text := strings.Trim(strings.TrimSpace(string(b)), `"'`)
	if text == "0" {
		*d = 0
		return nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 {
			*d = Duration(n * 24 * float64(time.Hour))
			return nil
		}
	}
	x, err := time.ParseDuration(text)
	if err != nil || x < 0 {
		return fmt.Errorf("%q is not a duration such as 90s, 10m or 30d", text)
	}
	*d = Duration(x)
	return nil
}

// Default returns the settings of a project that has none.
func Default() Settings {
	const day = Duration(24 * time.Hour)
	return Settings{
		Retention: Retention{Runs: 30 * day, Objects: 30 * day},
		Queue:     Queue{HighWater: queue.HighWater},
		Units:     Units{Max: 16, LogCap: 64 << 20},
		Callback:  Callback{Grace: Duration(30 * time.Second)},
	}
}

// Validate reports values that make no sense.
func (s Settings) Validate() error {
	for _, x := range []struct {
		ok   bool
		text string
	}{
		{s.Retention.Runs > 0, "retention.runs must be longer than 0"},
		{s.Queue.HighWater > 0, "queue.high_water must be larger than 0"},
		{s.Units.Max > 0 && s.Units.Max <= 10000, "units.max must be from 1 to 10000"},
		{s.Units.LogCap >= 1024, "units.log_cap must be at least 1024 bytes"},
		{s.Callback.Grace > 0, "callback.grace must be longer than 0"},
	} {
		if !x.ok {
			return waybill.E(waybill.KindInvalid, "waybill.yaml: %s", x.text)
		}
	}
	for _, n := range s.Units.BaseEnv {
		if err := waybill.CheckName(n); err != nil {
			return waybill.E(waybill.KindInvalid, "waybill.yaml: units.base_env: %v", err)
		}
	}
	return nil
}

// ReadSettings reads waybill.yaml of a project folder; without one the defaults count.
func ReadSettings(folder fs.FS) (Settings, error) {
	s := Default()
	b, err := fs.ReadFile(folder, "waybill.yaml")
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, waybill.E(waybill.KindInvalid, "waybill.yaml: %w", err)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return s, nil
	}
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(&s); err != nil {
		return s, waybill.E(waybill.KindInvalid, "waybill.yaml: %s", strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	return s, s.Validate()
}
