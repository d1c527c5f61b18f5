package sim

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// StatusNull is the actual_status of an instance that is still being provisioned: JSON's null.
const StatusNull = "null"

// Instance is a simulated instance. Zero fields get plausible values in Account.Add.
type Instance struct {
	ID    uint64
	Label string
	// Status is actual_status: "running" if empty, JSON's null if StatusNull.
	Status string
	// Walk are statuses to pass through first: every read of the row shows the next one, and after the last one
	// Status. A new instance walks StatusNull, "created", "loading".
	Walk []string
	// Intended, Current and Next are intended_status, cur_state and next_state: "running" if empty.
	Intended, Current, Next string
	StatusMsg               string
	// Runtype is image_runtype: "ssh ssh_direc ssh_proxy" if empty.
	Runtype string
	// Direct is where its own sshd can be reached, Gateway where Vast's relay for it is: "host:port", or empty
	// for none.
	Direct, Gateway   string
	MachineID, HostID uint64
	GPUName           string
	NumGPUs           int
	DPHTotal          float64
	OnStart           string
	ExtraEnv          [][2]string
	StartDate         time.Time
	// Log is what the container has printed, DaemonLog what the machine's daemon has.
	Log, DaemonLog string
}

func (i *Instance) setDefaults(now time.Time) {
	setDefault(&i.Status, "running")
	setDefault(&i.Intended, "running")
	setDefault(&i.Current, "running")
	setDefault(&i.Next, "running")
	setDefault(&i.Runtype, "ssh ssh_direc ssh_proxy")
	setDefault(&i.GPUName, "RTX 4090")
	setDefault(&i.NumGPUs, 1)
	setDefault(&i.DPHTotal, 0.4)
	setDefault(&i.MachineID, 10_000+i.ID%10_000)
	setDefault(&i.HostID, 50_000+i.ID%10_000)
	if i.StartDate.IsZero() {
		i.StartDate = now.Add(-time.Hour)
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// booting reports whether the status shown now is one before there is a container.
func (i *Instance) booting() bool {
	switch i.shown() {
	case StatusNull, "created", "loading", "recycling":
		return true
	}
	return false
}

// shown is the actual_status that the next reader sees.
func (i *Instance) shown() string {
	if len(i.Walk) > 0 {
		return i.Walk[0]
	}
	return i.Status
}

// walk makes the row show the passing statuses for BootReads reads each, and status after them. It needs mu.
func (a *Account) walk(row *instance, status string, passing ...string) {
	row.Status, row.Walk = status, nil
	for _, p := range passing {
		row.Walk = slices.Concat(row.Walk, slices.Repeat([]string{p}, a.opts.BootReads))
	}
}

// columns returns the row of an instance as the API shows it. byID is the answer for one instance, whose ports may
// have another form.
func (a *Account) columns(row *instance, byID bool) map[string]any {
	s := a.opts.Shapes
	now := a.opts.Now()
	status := row.shown()
	publicIP, direct := splitAddr(row.Direct)
	if publicIP == "" {
		publicIP = "192.0.2.45"
	}
	if s.PaddedIP {
		publicIP = " " + publicIP + "\n"
	}
	var sshHost, sshPort any
	if host, port := splitAddr(row.Gateway); host != "" {
		if strings.Contains(row.Runtype, "jupyter") && !s.NoJupyterShift {
			port--
		}
		sshHost, sshPort = host, port
	}
	portStart, portEnd := 65535, -1
	if direct != 0 {
		portStart, portEnd = direct, direct+1
	}
	uptime := now.Sub(row.StartDate)
	columns := map[string]any{
		"id":              row.ID,
		"label":           orNull(row.Label, ""),
		"actual_status":   orNull(status, StatusNull),
		"intended_status": row.Intended,
		"cur_state":       row.Current,
		"next_state":      row.Next,
		"status_msg":      orNull(row.StatusMsg, ""),

		"public_ipaddr":        publicIP,
		"local_ipaddrs":        "10.0.0.5 172.17.0.2",
		"ssh_host":             sshHost,
		"ssh_port":             sshPort,
		"ssh_idx":              "6",
		"machine_dir_ssh_port": 51199,
		"direct_port_count":    max(portEnd-portStart+1, 0),
		"direct_port_start":    portStart,
		"direct_port_end":      portEnd,
		"ports":                a.ports(status, direct),
		"static_ip":            false,

		"machine_id":       row.MachineID,
		"host_id":          row.HostID,
		"image_uuid":       "nvidia/cuda:12.4.1-devel-ubuntu22.04",
		"image_args":       []string{},
		"image_runtype":    row.Runtype,
		"extra_env":        append([][2]string{}, row.ExtraEnv...),
		"onstart":          orNull(row.OnStart, ""),
		"jupyter_token":    strings.Repeat("5a", 32),
		"template_id":      nil,
		"template_hash_id": nil,
		"template_name":    nil,
		"volume_info":      a.volumeInfo(row.ID),

		"gpu_name": row.GPUName, "gpu_arch": "nvidia", "num_gpus": row.NumGPUs, "gpu_frac": 1.0, "gpu_ram": 24576,
		"gpu_totalram": 24576 * row.NumGPUs, "gpu_util": 0.0, "gpu_temp": 38.0, "gpu_lanes": 16,
		"gpu_mem_bw": 1008.0, "bw_nvlink": 0.0,
		"cpu_arch": "amd64", "cpu_cores": 16, "cpu_cores_effective": 16.0, "cpu_name": "AMD EPYC 7443P",
		"cpu_ram": 64000, "cpu_util": 0.0, "mem_limit": 62.5, "mem_usage": 0.5, "vmem_usage": 0.5,
		"disk_name": "Samsung SSD 990", "disk_space": 32.0, "disk_bw": 2500.0, "disk_util": 0.05, "disk_usage": 1.2,
		"mobo_name": "H12SSL-i", "os_version": "22.04", "pci_gen": 4.0, "pcie_bw": 24.0,
		"inet_up": 800.0, "inet_down": 900.0, "inet_up_cost": 0.0, "inet_down_cost": 0.0,

		"dph_base": row.DPHTotal, "dph_total": row.DPHTotal, "min_bid": row.DPHTotal, "is_bid": false,
		"storage_cost": 0.15, "storage_total_cost": 0.002, "vram_costperhour": 0.00005, "credit_balance": nil,
		"credit_discount": nil, "credit_discount_max": 0.4, "dlperf": nil, "dlperf_per_dphtotal": nil,
		"total_flops": 82.5, "flops_per_dphtotal": 206.0, "score": nil, "reliability2": 0.99,
		"search":   map[string]float64{"gpuCostPerHour": row.DPHTotal, "diskHour": 0.002, "totalHour": row.DPHTotal},
		"instance": map[string]float64{"gpuCostPerHour": row.DPHTotal, "diskHour": 0.002, "totalHour": row.DPHTotal},

		"start_date": epoch(row.StartDate), "end_date": epoch(row.StartDate.AddDate(1, 0, 0)),
		"uptime_mins": uptime.Minutes(), "duration": uptime.Seconds(), "client_run_time": uptime.Hours(),
		"host_run_time": 2592000.0, "time_remaining": "", "time_remaining_isbid": "",
		"geolocation": "Nowhere, XX", "country_code": "XX", "verification": "verified", "rentable": false,
		"external": false, "webpage": nil,
	}
	if byID {
		switch s.PortsByID {
		case PortsArray:
			list := []int{}
			if status == "running" && direct != 0 {
				list = append(list, direct)
			}
			columns["ports"] = list
		case PortsNull:
			columns["ports"] = nil
		case PortsAbsent:
			delete(columns, "ports")
		}
	}
	return columns
}

// binding is an element of Docker's port map.
type binding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

// ports returns Docker's port map, or nil when the container does not run.
func (a *Account) ports(status string, direct int) map[string][]binding {
	if status != "running" {
		return nil
	}
	ports := make(map[string][]binding)
	if direct == 0 {
		return ports
	}
	// A second port, so that a reader has to look for the one of ssh.
	for name, port := range map[string]int{"22/tcp": direct, "8080/tcp": 8080} {
		ports[name] = []binding{{HostIP: "0.0.0.0", HostPort: strconv.Itoa(port)}}
		if a.opts.Shapes.DualStackPorts {
			ports[name] = append(ports[name], binding{HostIP: "::", HostPort: strconv.Itoa(port)})
		}
	}
	return ports
}

func splitAddr(addr string) (host string, port int) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0
	}
	port, _ = strconv.Atoi(text)
	return host, port
}

func orNull(value, null string) any {
	if value == null {
		return nil
	}
	return value
}

func epoch(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
