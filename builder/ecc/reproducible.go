// SPDX-License-Identifier: Apache-2.0

package ecc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const prefixMapFlag = "-ffile-prefix-map="

// reproducibleFlags keep the machine, the folder and the hour out of the object.
func (c *compilation) reproducibleFlags() []string {
	now := sourceDate()
	flags := []string{
		// BTF holds the text of the source's lines. Without an embedded source
		// the backend reads them from the file that a #line directive names.
		"-gdwarf-5", "-gembed-source",
		"-ffile-compilation-dir=.",
		"-Wno-builtin-macro-redefined",
		"-D__DATE__=" + quoteC(now.Format("Jan _2 2006")),
		"-D__TIME__=" + quoteC(now.Format("15:04:05")),
		"-D__TIMESTAMP__=" + quoteC(now.Format("Mon Jan _2 15:04:05 2006")),
	}
	for _, m := range c.prefixMaps() {
		flags = append(flags, prefixMapFlag+m.from+"="+m.to)
	}
	return flags
}

// sourceDate is SOURCE_DATE_EPOCH, by default the epoch.
func sourceDate() time.Time {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		seconds = 0
	}
	return time.Unix(seconds, 0).UTC()
}

type prefixMap struct{ from, to string }

// prefixMaps says which paths become which in the object. clang before 17 takes
// the longest prefix that fits, later ones the last that fits, so that longer
// ones come later.
func (c *compilation) prefixMaps() []prefixMap {
	var maps []prefixMap
	for i, dir := range c.clang.includeDirs {
		maps = append(maps, prefixMap{dir + "/", fmt.Sprintf("system%d/", i)})
	}
	maps = append(maps, prefixMap{c.includeRoot + "/", "include/"})
	if c.vmlinuxDir != "" {
		maps = append(maps, prefixMap{c.vmlinuxDir + "/", "include/"})
	}
	source := c.sourceDir()
	for _, dir := range includeDirsOf(c.CFlags) {
		to := filepath.Base(c.absolute(dir))
		if rel, ok := below(source, c.absolute(dir)); ok {
			to = rel
		}
		maps = append(maps, prefixMap{strings.TrimSuffix(dir, "/") + "/", to + "/"})
	}
	maps = append(maps, prefixMap{"./", ""}, prefixMap{source + "/", ""})
	if dir := c.typedDir(); dir != "" && dir != "/" {
		maps = append(maps, prefixMap{dir, ""})
	}
	return maps
}

// below returns the path of name relative to dir when it lies in or below dir.
func below(dir, name string) (string, bool) {
	rel, err := filepath.Rel(dir, name)
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return "", false
	}
	return rel, true
}

// pathFlags are clang's flags whose value is a path from which it reads.
var pathFlags = []string{"--include-directory=", "-isystem", "-iquote", "-idirafter", "-include", "-imacros", "-I"}

// eachPath calls visit with each path that flags make clang read from.
func eachPath(flags []string, visit func(flag, path string)) {
	for i := 0; i < len(flags); i++ {
		for _, flag := range pathFlags {
			path, ok := strings.CutPrefix(flags[i], flag)
			if !ok {
				continue
			}
			if path == "" && i+1 < len(flags) {
				i++
				path = flags[i]
			}
			if path != "" {
				visit(flag, path)
			}
			break
		}
	}
}

// includeDirsOf returns the folders that flags make clang search.
func includeDirsOf(flags []string) []string {
	var dirs []string
	eachPath(flags, func(flag, path string) {
		if flag != "-include" && flag != "-imacros" {
			dirs = append(dirs, path)
		}
	})
	return dirs
}

// portableFlags are the flags of the compile without the paths of the machine.
func (c *compilation) portableFlags() []string {
	flags := c.commonFlags()
	for i := 0; i < len(c.CFlags); i++ {
		path := false
		for _, flag := range pathFlags {
			if value, ok := strings.CutPrefix(c.CFlags[i], flag); ok {
				path = true
				if value == "" {
					i++
				}
				break
			}
		}
		if !path {
			flags = append(flags, c.CFlags[i])
		}
	}
	return flags
}
