package chainlog

import "testing"

func BenchmarkAppend(b *testing.B) {
	l := openLog(b, newDir(b), fileSize, keepFiles)
	r := login(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(r); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkAppendParallel(b *testing.B) {
	l := openLog(b, newDir(b), fileSize, keepFiles)
	b.RunParallel(func(pb *testing.PB) {
		for r := login(1); pb.Next(); {
			if err := l.Append(r); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkVerify(b *testing.B) {
	const n = 10_000
	dir := whole(b, n, fileSize, 100)
	for b.Loop() {
		if r := verify(b, dir); r.Records != n {
			b.Fatalf("%+v", r)
		}
	}
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "records/s")
}
