// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/ebpm/ebpm/builder/ecc"
)

// logHandler writes lines as eunomia-bpf's ecc does, which scripts read:
// INFO [ecc_rs::bpf_compiler] Compiling bpf object...
type logHandler struct {
	out   io.Writer
	level slog.Level
}

// levelOff is above every level.
const levelOff slog.Level = 1 << 10

// logLevel is that of -v, unless the environment's RUST_LOG says otherwise. A
// word that is no level names a module there, which silences everything else.
func logLevel(verbose bool, rustLog string) slog.Level {
	switch rustLog {
	case "":
		if verbose {
			return slog.LevelDebug
		}
		return slog.LevelInfo
	case "trace", "debug":
		return slog.LevelDebug
	case "info":
		return slog.LevelInfo
	case "warn":
		return slog.LevelWarn
	}
	return levelOff
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	module := "ecc_rs::bpf_compiler"
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == ecc.ModuleAttr {
			module = a.Value.String()
		}
		return true
	})
	_, err := fmt.Fprintf(h.out, "%s [%s] %s\n", r.Level, module, r.Message)
	return err
}

func (h *logHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h *logHandler) WithGroup(string) slog.Handler { return h }
