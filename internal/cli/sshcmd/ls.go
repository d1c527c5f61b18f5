package sshcmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/term"
	"vast-ssh/internal/vast"
	"vast-ssh/known"
)

// row is an instance as ls and show report it.
type row struct {
	ID       uint64   `json:"id"`
	Label    string   `json:"label"`
	Status   string   `json:"status"`
	GPU      string   `json:"gpu"`
	GPUs     int      `json:"gpus"`
	Price    float64  `json:"price_per_hour"`
	Routes   []route  `json:"routes"`
	Problem  string   `json:"problem,omitempty"` // why there is no route
	Pinned   string   `json:"pinned,omitempty"`  // how: tofu, two-path, manual, log; empty if not
	SharedBy []uint64 `json:"host_key_shared_with,omitempty"`
}

type route struct {
	Route   resolve.Route `json:"route"`
	Address string        `json:"address"`
}

func newRow(in vast.Instance, pins []known.Pin, shared map[string][]uint64) row {
	r := row{
		ID: in.ID, Label: in.Label, Status: in.ActualStatus, GPU: in.GPUName, GPUs: in.NumGPUs, Price: in.DPHTotal,
		Routes: []route{},
	}
	if r.Status == "" {
		r.Status = "provisioning"
	}
	endpoints, err := resolve.Endpoints(in)
	if err != nil {
		r.Problem = err.Error()
	}
	for _, e := range endpoints {
		r.Routes = append(r.Routes, route{e.Route, e.Addr()})
	}
	for _, p := range pins {
		if p.Instance != in.ID {
			continue
		}
		r.Pinned = string(p.Via)
		for print, ids := range shared {
			if !slices.Contains(ids, in.ID) || print != keyPrint(p) {
				continue
			}
			for _, id := range ids {
				if id != in.ID && !slices.Contains(r.SharedBy, id) {
					r.SharedBy = append(r.SharedBy, id)
				}
			}
		}
	}
	slices.Sort(r.SharedBy)
	return r
}

func lsCommand(env *Env) *cli.Command {
	return &cli.Command{
		Name:  "ls",
		Usage: "list your instances",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return noArguments(c)
			}
			api, err := env.api()
			if err != nil {
				return err
			}
			instances, err := api.Instances(c.Context)
			if err != nil {
				return err
			}
			rows, err := report(env, instances)
			if err != nil {
				return err
			}
			if err := refreshFiles(env, instances); err != nil {
				voice.Warn(env.Stderr, "the list could not be kept for ssh and editors: %v", err)
			}
			if c.Bool("json") {
				return printJSON(env, rows)
			}
			return printTable(env, rows)
		},
	}
}

// report makes rows of instances and the pins.
func report(env *Env, instances []vast.Instance) ([]row, error) {
	file, err := env.pins()
	if err != nil {
		return nil, err
	}
	pins, err := file.Pins()
	if err != nil {
		return nil, err
	}
	shared := known.Shared(pins)
	rows := []row{}
	for _, in := range instances {
		rows = append(rows, newRow(in, pins, shared))
	}
	slices.SortFunc(rows, func(a, b row) int { return int(int64(a.ID) - int64(b.ID)) })
	return rows, nil
}

// refreshFiles lets the cache and the files for ssh and editors know what the API has just told.
func refreshFiles(env *Env, instances []vast.Instance) error {
	r, err := env.resolver()
	if err != nil {
		return err
	}
	if err := r.Remember(instances); err != nil {
		return err
	}
	return writeHosts(env, r)
}

func printTable(env *Env, rows []row) error {
	if len(rows) == 0 {
		fmt.Fprintln(env.Stderr, "you have no instances")
		return nil
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tLABEL\tSTATUS\tGPU\t$/HOUR\tADDRESS\tPINNED")
	for _, r := range rows {
		address, pinned := "-", "no"
		if len(r.Routes) > 0 {
			address = r.Routes[0].Address
		}
		if r.Pinned != "" {
			pinned = r.Pinned
		}
		if len(r.SharedBy) > 0 {
			pinned += ", key shared"
		}
		gpu := "-"
		if r.GPU != "" {
			gpu = fmt.Sprintf("%dx %s", r.GPUs, term.Safe(r.GPU))
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%.3f\t%s\t%s\n",
			r.ID, orDash(term.Safe(r.Label)), term.Safe(r.Status), gpu, r.Price, address, pinned)
	}
	return w.Flush()
}

func orDash(s string) string {
	if strings.TrimSpace(s) == "" {
		return "-"
	}
	return s
}

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON"} }

func printJSON(env *Env, v any) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := env.Stdout.Write(term.SafeJSON(text.Bytes()))
	return err
}
