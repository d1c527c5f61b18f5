//go:build linux

package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sys/unix"
)

const (
	// page is what direct I/O is aligned to. Devices with smaller blocks take it as well.
	page = 4096
	// chunkSize is how much is written at a time.
	chunkSize = 1 << 20
	// directFrom is the size from which direct I/O is worth its price.
	directFrom = 256 << 10
	// wholeUpTo is the size up to which a file is read back whole. Of a larger one samples are.
	wholeUpTo  = 1 << 20
	samples    = 16
	sampleSize = 64 << 10
	// checkpointEvery is after how many bytes of one file the journal is told.
	checkpointEvery = 256 << 20
)

// extent is a part of a file that has data: [from, to).
type extent struct{ from, to int64 }

// extents finds the parts of a file that are no holes, within its first size bytes. Where the file system cannot tell,
// the whole is one.
func extents(fd int, size int64) ([]extent, error) {
	var list []extent
	for at := int64(0); at < size; {
		from, err := unix.Seek(fd, at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			return list, nil
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTSUP):
			return []extent{{0, size}}, nil
		case err != nil:
			return nil, err
		}
		to, err := unix.Seek(fd, from, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		from, to = from/page*page, min(to, size) // a hole that ends inside of a page is none
		if from < to {
			list = append(list, extent{from, to})
		}
		at = max(to, at+1)
	}
	return list, nil
}

// job is one file that is being overwritten.
type job struct {
	fd   int
	size int64
	// from is where an earlier run came to, and the number that tells the stream of this file from that of others.
	from  checkpoint
	parts []extent
	// wrote is told how many more bytes are as they have to be, and reached how far the file is done for good.
	wrote   func(n int64)
	reached func(checkpoint)
}

// before returns how many bytes an earlier run has written.
func (j *job) before() (n int64) {
	for _, part := range j.parts {
		n += max(0, min(part.to, j.from.Offset)-part.from)
	}
	return n
}

// settle puts on the medium what is written up to an offset, and tells that.
func (j *job) settle(offset int64) error {
	if err := unix.Fdatasync(j.fd); err != nil {
		return err
	}
	j.reached(checkpoint{j.from.Nonce, offset, lastChange(j.fd)})
	return nil
}

// worker overwrites files. It is for one goroutine.
type worker struct {
	stream *stream
	// a and b are buffers of chunkSize, aligned to a page: one is filled while the other is written.
	a, b []byte
}

func newWorker(s *stream) (*worker, error) {
	w := &worker{stream: s}
	for _, buf := range []*[]byte{&w.a, &w.b} {
		mem, err := unix.Mmap(-1, 0, chunkSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			w.close()
			return nil, fmt.Errorf("memory for a buffer: %w", err)
		}
		*buf = mem
	}
	return w, nil
}

func (w *worker) close() {
	for _, mem := range [][]byte{w.a, w.b} {
		if mem != nil {
			unix.Munmap(mem)
		}
	}
}

// overwrite writes the stream over the data of a file, once and in place, and returns when it is on the medium as far as the
// system can tell. The size of the file does not change: a cut would free blocks before they are overwritten, and behind
// the end the system itself has put zeros.
func (w *worker) overwrite(ctx context.Context, j *job) error {
	direct := -1
	if j.size >= directFrom {
		// A second opening, since the flag holds for all that a descriptor does, and the end of a file is not aligned.
		if fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", j.fd), unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0); err == nil {
			direct = fd
			defer unix.Close(fd)
		}
	}
	since := int64(0)
	for _, part := range j.parts {
		if part.to <= j.from.Offset {
			continue
		}
		part.from = max(part.from, j.from.Offset)
		if err := w.overwritePart(ctx, j, direct, part, &since); err != nil {
			return err
		}
	}
	return unix.Fdatasync(j.fd)
}

// overwritePart fills one buffer while the other is written, where there is more than one chunk. Where ctx ends, the next run can
// go on.
func (w *worker) overwritePart(ctx context.Context, j *job, direct int, part extent, since *int64) error {
	cut := func(at int64) int64 { return min(at+chunkSize, part.to) }
	next := w.a[:cut(part.from)-part.from]
	w.stream.fill(next, j.from.Nonce, part.from)
	spare := w.b
	for at := part.from; at < part.to; {
		if err := ctx.Err(); err != nil {
			return errors.Join(err, j.settle(at))
		}
		now, to := next, cut(at)
		var filled chan struct{}
		if to < part.to {
			next = spare[:cut(to)-to]
			spare = now[:chunkSize]
			filled = make(chan struct{})
			go func(b []byte, offset int64) {
				w.stream.fill(b, j.from.Nonce, offset)
				close(filled)
			}(next, to)
		}
		err := writeAt(j.fd, direct, now, at)
		if filled != nil {
			<-filled
		}
		if err != nil {
			return err
		}
		j.wrote(int64(len(now)))
		at = to
		if *since += int64(len(now)); *since >= checkpointEvery {
			*since = 0
			if err := j.settle(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeAt writes b, by the direct descriptor as far as that takes it.
func writeAt(fd, direct int, b []byte, offset int64) error {
	for len(b) > 0 {
		use, part := fd, b
		if aligned := len(b) / page * page; direct >= 0 && aligned > 0 && offset%page == 0 {
			use, part = direct, b[:aligned]
		}
		n, err := unix.Pwrite(use, part, offset)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EINVAL && use == direct:
			direct = -1 // it could be opened and cannot be used
			continue
		case err != nil:
			return err
		case n == 0:
			return unix.EIO
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}

var errReadBack = errors.New("what is read back is not what was written")

// verify reads a file back, a small one whole and of a large one samples, and compares it with the stream. The pages in
// memory are dropped first, as far as the system agrees, so that it is the medium that answers.
func (w *worker) verify(j *job) error {
	// Advice may be refused; then less is proved.
	_ = unix.Fadvise(j.fd, 0, 0, unix.FADV_DONTNEED)
	if j.size <= wholeUpTo {
		for _, part := range j.parts {
			if err := w.compare(j, part); err != nil {
				return err
			}
		}
		return nil
	}
	for i, part := range j.parts {
		if i > samples {
			break
		}
		for _, from := range places(part, max(2, samples/len(j.parts))) {
			if err := w.compare(j, extent{from, min(from+sampleSize+page, part.to)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// places are where samples of part begin, at a page: its start, less than a sample and a page before its end, and n-2 in between.
func places(part extent, n int) []int64 {
	last := max(part.from, (part.to-sampleSize)/page*page)
	list := []int64{part.from, last}
	for range n - 2 {
		list = append(list, part.from+rand.Int64N(max(1, (last-part.from)/page+1))*page)
	}
	return list
}

// recheck reads back all that an earlier run has written: somebody may have written to the file since, where no sample is.
func (w *worker) recheck(ctx context.Context, j *job) error {
	for _, part := range j.parts {
		for at := part.from; at < min(part.to, j.from.Offset); at += chunkSize {
			if err := ctx.Err(); err != nil {
				return err
			}
			to := min(at+chunkSize, part.to, j.from.Offset)
			if err := w.compare(j, extent{at, to}); err != nil {
				return err
			}
			j.wrote(to - at)
		}
	}
	return nil
}

func (w *worker) compare(j *job, part extent) error {
	for at := part.from; at < part.to; {
		n := min(sampleSize, part.to-at)
		got, want := w.a[:n], w.b[:n]
		if err := readAt(j.fd, got, at); err != nil {
			return err
		}
		w.stream.fill(want, j.from.Nonce, at)
		if !bytes.Equal(got, want) {
			return errReadBack
		}
		at += n
	}
	return nil
}

func readAt(fd int, b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, offset)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return errReadBack // shorter than it was
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}
