package sshcmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/proxy"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/wipe"
	"vast-ssh/internal/wipe/protocol"
)

func TestTheCommandThatTakesAWipeUp(t *testing.T) {
	for want, order := range map[string]wipeOrder{
		"vast-ssh wipe 5 7": {options: wipe.Options{Scope: wipe.Workspace, Destroy: wipe.IfClean}},
		"vast-ssh wipe 5 7 --scope secrets --keep '/workspace/my model' --destroy never --yes": {
			options: wipe.Options{Scope: wipe.Secrets, Destroy: wipe.Never, Keep: []string{"/workspace/my model"}}, yes: true,
		},
		"vast-ssh wipe 5 7 --path /a --path '/b;c' --volumes --drop-jobs --json": {
			options: wipe.Options{Scope: wipe.Workspace, Destroy: wipe.IfClean, Paths: []string{"/a", "/b;c"}, Volumes: true, DropJobs: true}, json: true,
		},
	} {
		if got := order.again(5, 7); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestAMachineThatCloses(t *testing.T) {
	unreachable := func(err error) error {
		return fmt.Errorf("x: %w", &proxy.UnreachableError{Attempts: []proxy.Attempt{{Endpoint: resolve.Endpoint{}, Err: err}}})
	}
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{unreachable(io.EOF), true},
		{unreachable(fmt.Errorf("read: %w", syscall.ECONNRESET)), true},
		{&proxy.HandshakeError{Err: io.ErrUnexpectedEOF}, true},
		{unreachable(refused), false},
		{&proxy.HandshakeError{Err: errors.New("i/o timeout")}, false},
		{&proxy.HostKeyError{Err: io.EOF}, false},
		{io.EOF, false},
	} {
		if got := closedBefore(tt.err); got != tt.want {
			t.Errorf("%v: %v", tt.err, got)
		}
	}
}

func TestSomebodyWhoWaitsHearsThatItGoesOn(t *testing.T) {
	r, w := io.Pipe()
	stop := stillLooking(w, time.Millisecond)
	lines := bufio.NewScanner(r)
	for range 2 {
		if !lines.Scan() || lines.Text() != "still counting files" {
			t.Fatalf("%q, %v", lines.Text(), lines.Err())
		}
	}
	go io.Copy(io.Discard, r)
	stop()
	w.Close()
}

// TestInstancesThatWereNotBegunAreNamed stops before the first.
func TestInstancesThatWereNotBegunAreNamed(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	order := wipeOrder{options: wipe.Options{Scope: wipe.Workspace, Destroy: wipe.IfClean}, out: io.Discard}
	err = runAll(ctx, &Env{Stderr: w}, nil, order, []*wipe.Wipe{
		{Plan: wipe.Plan{Instance: 5, Label: "train"}}, {Plan: wipe.Plan{Instance: 7}},
	})
	w.Close()
	said, _ := io.ReadAll(r)
	if want := "instance 5 (train) was not begun\ninstance 7 was not begun\n"; string(said) != want {
		t.Errorf("said %q, want %q", said, want)
	}
	var hinted interface{ Hint() string }
	if exitCode(err) != voice.Incomplete || !errors.As(err, &hinted) || hinted.Hint() != order.again(5, 7) {
		t.Errorf("%v, exit %d, hint %v", err, exitCode(err), hinted)
	}
}

func TestConfirmation(t *testing.T) {
	for label, want := range map[string]string{"": "[7]", " \t": "[7]", " box ": "[7 box]"} {
		question, accepted := confirmation([]wipe.Plan{{Instance: 7, Label: label}})
		if fmt.Sprint(accepted) != want || !strings.HasPrefix(question, "Type ") {
			t.Errorf("%q: %q, %q", label, question, accepted)
		}
	}
	if _, accepted := confirmation(make([]wipe.Plan, 3)); fmt.Sprint(accepted) != "[3]" {
		t.Errorf("%q", accepted)
	}
}

// TestASocketOfEveryInstance may be that of a connection to another one.
func TestASocketOfEveryInstance(t *testing.T) {
	for pattern, want := range map[string]string{"/run/cm-%s": "/run/cm-vast-7", "/run/cm": "", "none": "", "relative-%s": ""} {
		program := filepath.Join(t.TempDir(), "ssh")
		script := "#!/bin/sh\n[ \"$1 $2 $3\" = '-F x -G' ] && printf 'host x\\ncontrolpath " + pattern + "\\n' \"$4\"\n"
		if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		if got := ownPath(t.Context(), program, []string{"-F", "x"}, 7); got != want {
			t.Errorf("%s: %q, want %q", pattern, got, want)
		}
	}
}

func TestAPlanSaysWhereNothingIs(t *testing.T) {
	var b strings.Builder
	printPlanNotes(&b, wipe.Plan{
		Left: []wipe.Left{{Code: protocol.Absent, Path: "/workspace/reslts\x1b"}}, Counts: map[protocol.Code]int64{protocol.Absent: 1},
	})
	if want := "nothing is at /workspace/reslts\\x1b\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestPlansOfSeveralInstances(t *testing.T) {
	done := time.Now()
	var b strings.Builder
	err := printPlans(&b, []wipe.Plan{
		{Instance: 1, Unreachable: []string{"layers", "swap"}, Counts: map[protocol.Code]int64{protocol.Image: 1}},
		{Instance: 2, Done: &done},
		{Instance: 3, Unreachable: []string{"swap", "logs"}, Counts: map[protocol.Code]int64{protocol.Image: 2, "new\x1b": 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, notes, _ := strings.Cut(b.String(), "\n\n")
	const want = `instance 1
stays: 1 file of the image
cannot be reached: layers

instance 3
stays: 2 files of the image
stays: 1 new\x1b
cannot be reached: logs

all of them
cannot be reached: swap
`
	if notes != want {
		t.Errorf("%s", b.String())
	}
}
