package sim_test

import (
	"slices"
	"testing"

	"vast-ssh/internal/sim"
	"vast-ssh/internal/vast"
)

func TestVolumesAndJobs(t *testing.T) {
	a := sim.NewAccount(sim.Options{})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	api, err := vast.New(vast.Config{URL: a.URL(), Key: a.Key()})
	if err != nil {
		t.Fatal(err)
	}
	one, two := a.Add(sim.Instance{}), a.Add(sim.Instance{})
	volume := a.AddVolume(sim.Volume{Label: "w", Instances: []uint64{one, two}})
	hidden := a.AddVolume(sim.Volume{Instances: []uint64{two}, Hidden: true})
	volumes, err := api.Volumes(t.Context())
	if err != nil || len(volumes) != 2 || volumes[0].ID != volume || !slices.Equal(volumes[0].Instances, []uint64{one, two}) ||
		len(volumes[1].Instances) != 0 {
		t.Errorf("volumes: %+v, %v", volumes, err)
	}
	in, err := api.Instance(t.Context(), two)
	if err != nil || len(in.Volumes) != 2 || in.Volumes[0].ID != volume || in.Volumes[1].ID != hidden {
		t.Errorf("volumes of an instance: %+v, %v", in.Volumes, err)
	}
	job := a.AddJob(sim.Job{Instance: one, Endpoint: "/api/v0/commands/rclone/", Method: "POST"})
	jobs, err := api.ScheduledJobs(t.Context())
	if err != nil || len(jobs) != 1 || jobs[0].ID != job || !jobs[0].Concerns(one) || jobs[0].Concerns(two) {
		t.Errorf("jobs: %+v, %v", jobs, err)
	}
	if err := api.DropScheduledJob(t.Context(), job); err != nil || len(a.Jobs()) != 0 {
		t.Errorf("drop: %v, and %v are left", err, a.Jobs())
	}
	if err := api.DropScheduledJob(t.Context(), job); err == nil {
		t.Error("a job that is gone can be dropped")
	}
	if odd := a.Unexpected(); len(odd) > 0 {
		t.Errorf("the API does not know %+v", odd)
	}
}
