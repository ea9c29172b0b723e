// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// storedPackage is one package of the local store.
type storedPackage struct {
	Reference   string    `json:"reference"`
	Digest      string    `json:"digest"`
	Name        string    `json:"name"`
	Version     string    `json:"version,omitempty"`
	Description string    `json:"description,omitempty"`
	Platforms   []string  `json:"platforms"`
	Size        int64     `json:"size"` // bytes
	Used        time.Time `json:"used"`
	// Error says why a package cannot be used.
	Error string `json:"error,omitempty"`
}

func (s *session) packagesCommand() *cli.Command {
	return &cli.Command{
		Name:        "packages",
		Category:    categoryMake,
		Usage:       "list, or remove, the packages of the local store",
		Description: "ebpm packages          lists them\nebpm packages rm REF   removes one",
		Flags:       []cli.Flag{outputFlag()},
		Subcommands: []*cli.Command{{
			Name:            "rm",
			Usage:           "remove packages from the local store",
			ArgsUsage:       "REF...",
			HideHelpCommand: true,
			OnUsageError:    func(c *cli.Context, err error, _ bool) error { return usageError(c, err.Error()) },
			Action:          s.removePackages,
		}},
		Action: func(c *cli.Context) error {
			if _, err := s.positionals(c, 0, 0); err != nil {
				return err
			}
			store, err := s.openStore()
			if err != nil {
				return err
			}
			entries, err := store.List(c.Context)
			if err != nil {
				return err
			}
			packages := []storedPackage{}
			r := result{table: [][]string{{"REFERENCE", "VERSION", "PLATFORMS", "SIZE", "USED"}}, wide: [][]string{{"REFERENCE", "VERSION", "PLATFORMS", "SIZE", "USED", "DIGEST", "DESCRIPTION"}}}
			for _, e := range entries {
				tagged := e.Reference
				tagged.Digest = ""
				p := storedPackage{
					Reference: tagged.String(), Digest: e.Reference.Digest.String(), Name: e.Name, Version: e.Version,
					Description: e.Description, Platforms: platformNames(e.Platforms), Size: e.Size, Used: e.Used,
				}
				version := p.Version
				if e.Err != nil {
					p.Error = e.Err.Error()
					version = "damaged: " + p.Error
				}
				packages = append(packages, p)
				row := []string{p.Reference, version, strings.Join(p.Platforms, ","), formatBytes(p.Size), formatAge(time.Since(p.Used))}
				r.names = append(r.names, p.Reference)
				r.table = append(r.table, row)
				r.wide = append(r.wide, append(row[:len(row):len(row)], p.Digest, p.Description))
			}
			r.value = packages
			return s.print(c, r)
		},
	}
}

func (s *session) removePackages(c *cli.Context) error {
	args, err := s.positionals(c, 1, -1)
	if err != nil {
		return err
	}
	store, err := s.openStore()
	if err != nil {
		return err
	}
	for _, arg := range args {
		ref, err := s.reference(arg)
		if err != nil {
			return err
		}
		if err := store.Remove(c.Context, ref.WithDefaultTag()); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(s.out, ref.WithDefaultTag()); err != nil {
			return err
		}
	}
	return nil
}

func formatBytes(n int64) string {
	const unit = 1024
	switch {
	case n < unit:
		return fmt.Sprintf("%d B", n)
	case n < unit*unit:
		return fmt.Sprintf("%.1f KiB", float64(n)/unit)
	default:
		return fmt.Sprintf("%.1f MiB", float64(n)/(unit*unit))
	}
}

// formatAge writes a duration as kubectl does: 12s, 5m, 3h, 2d.
func formatAge(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
