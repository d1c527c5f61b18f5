package custody

import (
	"errors"

	"golang.org/x/sys/unix"
)

// advise keeps the pages of data out of core dumps, and gives a forked child zeroes in their place.
func advise(data []byte) error {
	if err := unix.Madvise(data, unix.MADV_DONTDUMP); err != nil {
		return err
	}
	// Since Linux 4.14.
	if err := unix.Madvise(data, unix.MADV_WIPEONFORK); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
