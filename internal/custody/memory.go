package custody

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pages are memory outside the Go heap, between two pages that cannot be touched: what runs over an end of it is a
// fault instead of a leak.
type pages struct {
	all  []byte
	data []byte // at least what was asked for, zero at first
}

// newPages maps pages for size bytes. locked is nil if they never go to the swap, a core dump or a forked child, or
// says what the kernel refused; the pages are of use in both cases.
func newPages(size int) (p *pages, locked error, err error) {
	page := os.Getpagesize()
	length := (size + page - 1) / page * page
	all, err := unix.Mmap(-1, 0, page+length+page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, fmt.Errorf("memory for the private key: %w", err)
	}
	p = &pages{all: all, data: all[page : page+length : page+length]}
	if err := unix.Mprotect(p.data, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		p.free()
		return nil, nil, fmt.Errorf("memory for the private key: %w", err)
	}
	if err := advise(p.data); err != nil {
		locked = fmt.Errorf("the private key could be in a core dump: madvise: %w", err)
	}
	if err := unix.Mlock(p.data); err != nil {
		locked = fmt.Errorf("the private key could be written to the swap: mlock of %d KiB (ulimit -l): %w", length>>10, err)
	}
	return p, locked, nil
}

// free unmaps the pages. Who wrote to them zeroes them first.
func (p *pages) free() {
	// It fails only where a part of a mapping is unmapped and the kernel has no room for the two that remain.
	_ = unix.Munmap(p.all)
}
