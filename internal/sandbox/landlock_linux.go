package sandbox

import (
	"fmt"
	"os"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// reading is what is left in the directories to read.
const reading = llsys.AccessFSReadFile | llsys.AccessFSReadDir

// writing is what is left in the directories to write.
const writing = reading | llsys.AccessFSWriteFile | llsys.AccessFSTruncate | llsys.AccessFSMakeReg | llsys.AccessFSMakeDir |
	llsys.AccessFSMakeSock | llsys.AccessFSRemoveFile

// restrictFiles leaves the files of the rules, by landlock(7): files from ABI 1 on, abstract sockets from 6. Signals are left
// alone: Go sends them between its threads, which on some kernels are outside of each other's domain. TCP is left to
// the filter of calls, since Landlock lets MPTCP pass.
func restrictFiles(r Rules) (string, error) {
	abi, err := llsys.LandlockGetABIVersion()
	if err != nil || abi < 1 {
		return "this kernel has no Landlock", nil
	}
	level := fmt.Sprintf("Landlock ABI %d (its own files", abi)
	set := []any{landlock.V5.HandledAccessFS}
	if !r.AbstractSockets {
		set = append(set, landlock.ScopedSet(llsys.ScopeAbstractUnixSocket))
		if abi >= 6 {
			level += ", no abstract sockets"
		}
	}
	config, err := landlock.NewConfig(set...)
	if err != nil {
		return "", err
	}
	rules := []landlock.Rule{landlock.PathAccess(writing, r.Write...)}
	for _, path := range r.Read {
		rights, err := readable(path)
		if err != nil {
			return "", err
		}
		rules = append(rules, landlock.PathAccess(rights, path))
	}
	return level + ")", config.BestEffort().Restrict(rules...)
}

// readable returns the rights to read what is at path: a file has no right to be listed.
func readable(path string) (landlock.AccessFSSet, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if info.IsDir() {
		return reading, nil
	}
	return llsys.AccessFSReadFile, nil
}
