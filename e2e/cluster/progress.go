// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"io"
	"time"
)

// linkWeight is what linking one program costs, in packages compiled. A large
// program of this cluster takes about ten seconds to link, in which the
// compiler does about as many packages.
const linkWeight = 10

// progressEvery is the least time between two progress lines.
const progressEvery = 10 * time.Second

// progress counts what a build has done against what it has to do.
type progress struct {
	log         io.Writer
	start       time.Time // of the build
	compileFrom time.Time // of the first compilation
	last        time.Time // of the last line

	modules         int // downloaded
	packages, links int // to do in all
	donePackages    int
	doneLinks       int
}

func (p *progress) add(packages, links int) {
	p.packages += packages
	p.links += links
}

// downloading notes that the Go command fetches a module. How many there will
// be is not known, so no estimate is given.
func (p *progress) downloading(module string) {
	p.modules++
	if p.due(time.Now()) {
		fmt.Fprintf(p.log, "  %d modules downloaded, now %s\n", p.modules, module)
	}
}

func (p *progress) compiling() {
	p.compileFrom = time.Now()
	if p.modules > 0 {
		fmt.Fprintf(p.log, "  %d modules downloaded in %s\n", p.modules, p.compileFrom.Sub(p.start).Round(time.Second))
	}
}

// compiled notes that the Go command named a package.
func (p *progress) compiled() {
	// Packages can be listed twice when two components disagree on nothing
	// but a build tag; the count never exceeds what was announced.
	p.donePackages = min(p.donePackages+1, p.packages)
	if now := time.Now(); p.due(now) {
		fmt.Fprintf(p.log, "  %d of %d packages compiled, %s\n", p.donePackages, p.packages,
			estimate(p.donePackages+linkWeight*p.doneLinks, p.packages+linkWeight*p.links, now.Sub(p.compileFrom)))
	}
}

func (p *progress) linked(programs int, name string) {
	p.doneLinks += programs
	fmt.Fprintf(p.log, "  %s built (%s since the start)\n", name, time.Since(p.start).Round(time.Second))
}

// due says whether it is time for another line.
func (p *progress) due(now time.Time) bool {
	if now.Sub(p.last) < progressEvery {
		return false
	}
	p.last = now
	return true
}

// estimate says how long the rest takes when it goes on as until now, and
// nothing while too little is done to tell.
func estimate(done, total int, elapsed time.Duration) string {
	if done < total/20 || elapsed < progressEvery || done == 0 {
		return "too early to tell how long it takes"
	}
	left := time.Duration(float64(elapsed) / float64(done) * float64(total-done))
	if left < time.Minute {
		return "less than a minute left"
	}
	return fmt.Sprintf("about %d min left", int(left.Round(time.Minute)/time.Minute))
}
