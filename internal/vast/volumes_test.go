package vast

import (
	"reflect"
	"strings"
	"testing"
)

func TestDecodeVolumes(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want []Volume
		bad  bool
	}{
		"as the official tool reads it": {body: `{"volumes":[{"id":5,"label":"w","disk_space":10.5,"status":"active","machine_id":7,"start_date":1}]}`,
			want: []Volume{{ID: 5, Label: "w", MachineID: 7, Status: "active", SizeGB: 10.5}}},
		"users as ids":   {body: `{"volumes":[{"id":5,"instances":[1,"2"]}]}`, want: []Volume{{ID: 5, Instances: []uint64{1, 2}}}},
		"users as rows":  {body: `{"volumes":[{"id":5,"instances":[{"id":1}]}]}`, want: []Volume{{ID: 5, Instances: []uint64{1}}}},
		"unknown users":  {body: `{"volumes":[{"id":5,"instances":[{"id":1},{"x":1}]}]}`, bad: true},
		"a user by name": {body: `{"volumes":[{"id":5,"instance_ids":["box"]}]}`, bad: true},
		"a single user":  {body: `{"volumes":[{"id":5,"instance_id":3}]}`, want: []Volume{{ID: 5, Instances: []uint64{3}}}},
		"none":           {body: `{"volumes":[]}`},
		"null":           {body: `{"volumes":null}`, bad: true},
		"a bare list":    {body: `[]`, bad: true},
		"no id":          {body: `{"volumes":[{"label":"x"}]}`, bad: true},
		"not an object":  {body: `{"volumes":[1]}`, bad: true},
		"too many":       {body: `{"volumes":[` + strings.Repeat(`{"id":1},`, maxVolumes) + `{"id":1}]}`, bad: true},
	} {
		got, err := decodeVolumes([]byte(c.body))
		if (err != nil) != c.bad || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestVolumesOfAnInstance(t *testing.T) {
	for body, want := range map[string][]VolumeUse{
		`{"id":1,"volume_info":[{"id":5,"avail_space":1,"total_space":2},{"id":"6","name":"n","mount_path":"/data"}]}`: {{ID: 5}, {ID: 6, Name: "n", Path: "/data"}},
		`{"id":1,"volume_info":{"id":5}}`:  {{ID: 5}},
		`{"id":1,"volume_info":null}`:      nil,
		`{"id":1,"volume_info":"x"}`:       nil,
		`{"id":1,"volume_info":[null,{}]}`: nil,
		`{"id":1}`:                         nil,
	} {
		in, err := decodeInstance([]byte(body))
		if err != nil || !reflect.DeepEqual(in.Volumes, want) {
			t.Errorf("%s: %+v, %v", body, in.Volumes, err)
		}
	}
}

func TestDecodeJobs(t *testing.T) {
	for name, c := range map[string]struct {
		body     string
		concerns []uint64
		bad      bool
	}{
		"by its field":     {body: `[{"id":9,"instance_id":44,"api_endpoint":"/api/v0/commands/rclone/","frequency":"DAILY"}]`, concerns: []uint64{44}},
		"by its path":      {body: `[{"id":9,"api_endpoint":"/api/v0/instances/reboot/45/"}]`, concerns: []uint64{45}},
		"by its body":      {body: `[{"id":9,"api_endpoint":"/x","request_body":{"src_id":"46:/workspace","dst_id":"C.47"}}]`, concerns: []uint64{46, 47}},
		"by a body's text": {body: `[{"id":9,"request_body":"{\"instance_id\":48}"}]`, concerns: []uint64{48}},
		"in an object":     {body: `{"scheduled_jobs":[{"id":9,"instance_id":44}]}`, concerns: []uint64{44}},
		"none":             {body: `[]`},
		"null":             {body: `null`, bad: true},
		"an object":        {body: `{"success":true}`, bad: true},
		"no id":            {body: `[{"instance_id":44}]`, bad: true},
	} {
		jobs, err := decodeJobs([]byte(c.body))
		if (err != nil) != c.bad {
			t.Errorf("%s: %+v, %v", name, jobs, err)
			continue
		}
		for _, id := range c.concerns {
			if !jobs[0].Concerns(id) || jobs[0].Concerns(id+100) {
				t.Errorf("%s: %+v concerns %d: %v", name, jobs[0], id, jobs[0].Concerns(id))
			}
		}
	}
	secret := "s3cr3t-in-the-body"
	jobs, err := decodeJobs([]byte(`[{"id":9,"api_endpoint":"/x\u001b","request_body":{"key":"` + secret + `"}}]`))
	if err != nil || strings.Contains(jobs[0].String(), secret) || strings.Contains(jobs[0].String(), "\x1b") {
		t.Errorf("shown as %q, %v", jobs[0].String(), err)
	}
}

func FuzzVolumesAndJobs(f *testing.F) {
	f.Add([]byte(`{"volumes":[{"id":5,"instances":[1]}],"scheduled_jobs":[{"id":1,"api_endpoint":"/a/1/"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if volumes, err := decodeVolumes(data); err == nil {
			for _, v := range volumes {
				if v.ID == 0 {
					t.Error("a volume without an id")
				}
			}
		}
		if jobs, err := decodeJobs(data); err == nil {
			for _, j := range jobs {
				if j.ID == 0 || j.String() == "" {
					t.Error("a job without an id")
				}
			}
		}
	})
}
