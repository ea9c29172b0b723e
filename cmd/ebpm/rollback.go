// SPDX-License-Identifier: Apache-2.0

//go:build !node

package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ebpm/ebpm/deployer"
	"github.com/ebpm/ebpm/manifest"
)

func (s *session) rollbackCommand() *cli.Command {
	return &cli.Command{
		Name:      "rollback",
		Category:  categoryCluster,
		Usage:     "move a release back to an earlier revision",
		ArgsUsage: "RELEASE",
		Description: "Without --to it is the newest earlier revision that was ready everywhere and\n" +
			"ran something else. The digest of that revision runs, also where its tag has\n" +
			"moved since.",
		Flags: append(clusterFlags(
			&cli.StringFlag{Name: "to", Usage: "the `REVISION`, tag or digest to go back to"},
			resetStateFlag(),
			outputFlag(),
		), rolloutFlags()...),
		Action: s.release(func(c *cli.Context, cluster *deployer.Client, name string) error {
			plan, err := cluster.PlanRollback(c.Context, name, c.String("to"), c.Bool("reset-state"))
			if err != nil {
				return err
			}
			s.notes(plan.Notes)
			s.say("from revision %d: %s\nto   revision %d: %s",
				plan.From.Revision, plan.From.Reference, plan.To.Revision, plan.To.Reference)
			r, err := cluster.Rollback(c.Context, plan, s.rolloutOptions(c))
			return s.finishRollout(c, r, err)
		}),
	}
}

func (s *session) historyCommand() *cli.Command {
	return &cli.Command{
		Name:      "history",
		Category:  categoryCluster,
		Usage:     "list the revisions of a release",
		ArgsUsage: "RELEASE",
		Flags:     clusterFlags(outputFlag()),
		Action: s.release(func(c *cli.Context, cluster *deployer.Client, name string) error {
			revisions, err := cluster.History(c.Context, name)
			if err != nil {
				return err
			}
			return s.print(c, historyResult(revisions))
		}),
	}
}

func historyResult(revisions []deployer.Revision) result {
	r := result{
		value: revisions,
		table: [][]string{{"REVISION", "", "WHEN", "TAG", "DIGEST", "REASON", "OUTCOME", "NOTE"}},
		wide:  [][]string{{"REVISION", "", "WHEN", "TAG", "DIGEST", "REASON", "OUTCOME", "NOTE", "USER", "TARGETS", "ARGS"}},
	}
	for _, revision := range revisions {
		current := ""
		if revision.Current {
			current = "*"
		}
		row := []string{
			strconv.FormatInt(revision.Revision, 10), current, revision.Time.Local().Format(time.DateTime),
			revision.Tag, manifest.ShortDigest(revision.Digest), revision.Reason, outcome(revision), revision.Note,
		}
		r.names = append(r.names, row[0])
		r.table = append(r.table, row)
		r.wide = append(r.wide, append(row[:len(row):len(row)], revision.User, revision.Targets.String(), strings.Join(revision.Args, " ")))
	}
	return r
}

// outcome says in a word or two how a move ended.
func outcome(r deployer.Revision) string {
	switch {
	case r.Outcome == nil:
		return "not observed"
	case r.Outcome.Ready:
		return "ready"
	default:
		return fmt.Sprintf("failed: %d/%d attached", r.Outcome.Attached, r.Outcome.Desired)
	}
}
