// Package loadtest measures this program: "waybill loadtest". It starts servers of
// its own, in temporary folders and on loopback, so that anyone can repeat every
// figure of docs/performance.md on a machine of their own.
//
// A figure says what was measured and, where there is one, the bar it has to meet.
// What depends on the machine more than on the program is measured beside it, in
// the same run: how fast the machine starts processes, and how fast it flushes.
package loadtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Deps are what the commands need from the rest of the program.
type Deps struct {
	Version string
	// Pack makes an image of a static program, as an archive in a file.
	Pack func(program, tag, file string) error
	// OpenStore opens a new store with this schema: "sqlite" in the folder dir, or the
	// PostgreSQL of a URL. It is called once for each store that is measured.
	OpenStore func(ctx context.Context, where, dir string, schema store.Schema) (store.Store, error)
	// Deliveries are those over a store with DeliverySchema.
	Deliveries     func(store.Store) waybill.Deliveries
	DeliverySchema store.Schema
}

// options are those of both commands.
type options struct {
	Deps
	where   string // --store
	quick   bool
	repeat  int
	only    []string
	callers int
	seconds int
	keep    bool
	files   map[string]string // of the project, beside those of runs
	log     io.Writer         // what is being done, for people
}

// note tells what is being done.
func (o *options) note(format string, args ...any) {
	fmt.Fprintf(o.log, "loadtest: "+format+"\n", args...)
}

// span is how long a measurement lasts that is given in seconds.
func (o *options) span() time.Duration { return time.Duration(o.seconds) * time.Second }

// Command returns the command loadtest with its subcommands. They print a report
// and fail when a bar was missed.
func Command(d Deps) *cobra.Command {
	top := &cobra.Command{
		Use: "loadtest", Short: "Measure this program on this machine", Args: cobra.NoArgs,
		Long: `Measure this program on this machine. Nothing needs to run: servers are started in temporary
folders and on loopback, and removed with everything they made.

It fails when a figure misses its bar. Other load on the machine counts, so the report says how
loaded the machine was.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	top.AddCommand(runsCommand(d), storeCommand(d), schedulesCommand(d), containersCommand(d), deliveriesCommand(d))
	return top
}

func common(cmd *cobra.Command, o *options) {
	f := cmd.Flags()
	f.StringVar(&o.where, "store", "sqlite", "sqlite, or the postgres:// URL of a database in which schemas may be made and dropped")
	f.IntVar(&o.repeat, "repeat", 1, "measure everything so often and report medians")
	f.IntVar(&o.callers, "callers", o.callers, "clients at once")
	f.IntVar(&o.seconds, "seconds", o.seconds, "how long to measure what is measured as a rate")
}

func runsCommand(d Deps) *cobra.Command {
	o := options{Deps: d, callers: 16, seconds: 10}
	cmd := &cobra.Command{
		Use: "runs", Short: "Measure runs: latency, rate, loss, recovery, memory", Args: cobra.NoArgs,
		Long: `Measure runs of process steps on servers of its own: how soon a program starts and a run is
done, how many runs a second, that none is lost when the server is killed, how soon it works again,
how it behaves with a long queue, and its memory. Parts: ` + strings.Join(partNames(), ", ") + `.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range o.only {
				if !slices.Contains(partNames(), name) {
					return waybill.E(waybill.KindInvalid, "there is no part %q, only %s", name, strings.Join(partNames(), ", "))
				}
			}
			return measure(cmd, &o, runs)
		},
	}
	common(cmd, &o)
	cmd.Flags().BoolVar(&o.quick, "quick", false, "fewer runs and shorter: about a minute")
	cmd.Flags().StringSliceVar(&o.only, "only", nil, "measure these parts only")
	cmd.Flags().BoolVar(&o.keep, "keep", false, "keep the folders of the servers, with their logs")
	return cmd
}

func containersCommand(d Deps) *cobra.Command {
	o := options{Deps: d, callers: 1, seconds: 1}
	cmd := &cobra.Command{
		Use: "containers", Short: "Measure containers: what a step costs over its container, none lost, none left", Args: cobra.NoArgs,
		Long: `Measure containers on servers of its own: how long a step takes in a container, beside how long the
runtime takes for the same container without Waybill (runc run, crun run, docker run), in turn, with an
image that is here; and whether of two hundred containers, eight at a time, any is lost, tried again or
left. Docker is the one that the docker command uses. What is not installed is left out. Kinds: ` + strings.Join(boxNames(), ", ") + `.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range o.only {
				if !slices.Contains(boxNames(), name) {
					return waybill.E(waybill.KindInvalid, "there is no kind %q, only %s", name, strings.Join(boxNames(), ", "))
				}
			}
			return measure(cmd, &o, containers)
		},
	}
	common(cmd, &o)
	cmd.Flags().BoolVar(&o.quick, "quick", false, "fewer containers, one at a time")
	cmd.Flags().StringSliceVar(&o.only, "only", nil, "measure these kinds only")
	cmd.Flags().BoolVar(&o.keep, "keep", false, "keep the folders of the servers, with their logs")
	return cmd
}

func storeCommand(d Deps) *cobra.Command {
	o := options{Deps: d, callers: 64, seconds: 5}
	cmd := &cobra.Command{
		Use: "store", Short: "Measure the store: durable steps a second, latency of messages", Args: cobra.NoArgs,
		Long: `Measure the store alone. A step is one durable commit that changes a row by its revision, writes
an event, finishes a message and sends the next one.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return measure(cmd, &o, stores) },
	}
	common(cmd, &o)
	return cmd
}

func schedulesCommand(d Deps) *cobra.Command {
	o := options{Deps: d, callers: 1, seconds: 60}
	cmd := &cobra.Command{
		Use: "schedules", Short: "Measure schedules: how late they fire, what it costs to wait", Args: cobra.NoArgs,
		Long: `Measure 10,000 hourly schedules, spread evenly over the hour, on servers of its own: how late their
nominal times fire, and how busy the server is while they wait.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return measure(cmd, &o, schedules) },
	}
	common(cmd, &o)
	return cmd
}

// measure makes the measurements, prints the report and fails when a bar was missed.
func measure(cmd *cobra.Command, o *options, f func(context.Context, *options, *sheet) error) error {
	if o.callers < 1 || o.seconds < 1 || o.repeat < 1 {
		return waybill.E(waybill.KindInvalid, "--callers, --seconds and --repeat must be at least 1")
	}
	if o.where != "sqlite" && !isPostgres(o.where) {
		return waybill.E(waybill.KindInvalid, "the store must be sqlite or a postgres:// URL")
	}
	o.log = cmd.ErrOrStderr()
	if o.quick && !cmd.Flags().Changed("seconds") {
		o.seconds = 3
	}
	r := newReport(o)
	var sheets []*sheet
	for i := range o.repeat {
		if o.repeat > 1 {
			o.note("round %d of %d", i+1, o.repeat)
		}
		s := &sheet{}
		if err := f(cmd.Context(), o, s); err != nil {
			return fmt.Errorf("loadtest %s: %w", cmd.Name(), err)
		}
		sheets = append(sheets, s)
	}
	r.finish(sheets)
	format, err := cmd.Flags().GetString("output")
	if err != nil {
		format = "text"
	}
	if err := r.print(cmd.OutOrStdout(), format); err != nil {
		return err
	}
	if missed := r.missed(); len(missed) > 0 {
		return fmt.Errorf("loadtest %s: %d of %d bars missed: %s", cmd.Name(), len(missed), r.bars(), strings.Join(missed, ", "))
	}
	return nil
}

// scratch makes a place for one store. SQLite needs none; of PostgreSQL it is a
// schema of its own, which drop removes.
func (o *options) scratch(ctx context.Context) (where string, drop func(), err error) {
	if !isPostgres(o.where) {
		return o.where, func() {}, nil
	}
	return scratchSchema(ctx, o.where, fmt.Sprintf("waybill_loadtest_%d_%d", os.Getpid(), time.Now().UnixNano()))
}
