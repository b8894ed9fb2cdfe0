// Builds a directory with a frontend of its own in Control/Solve, as Go programs do that use BuildKit's client and no
// buildx: DOCKER_HOST=... solve DIRECTORY TAG. Prints the image's ID.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"

	docker "github.com/docker/docker/client"
	"github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	id, err := build(ctx, os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "solve:", err)
		os.Exit(1)
	}
	fmt.Println(id)
}

func build(ctx context.Context, directory, tag string) (string, error) {
	engine, err := docker.NewClientWithOpts(docker.FromEnv, docker.WithAPIVersionNegotiation())
	if err != nil {
		return "", err
	}
	builder, err := client.New(ctx, "",
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return engine.DialHijack(ctx, "/grpc", "h2c", nil)
		}),
		client.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return engine.DialHijack(ctx, "/session", proto, meta)
		}))
	if err != nil {
		return "", err
	}
	defer builder.Close()
	files, err := fsutil.NewFS(directory)
	if err != nil {
		return "", err
	}
	answer, err := builder.Solve(ctx, nil, client.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: map[string]string{"label:own": "1"},
		LocalMounts:   map[string]fsutil.FS{"context": files, "dockerfile": files},
		Exports:       []client.ExportEntry{{Type: "moby", Attrs: map[string]string{"name": tag}}},
	}, nil)
	if err != nil {
		return "", err
	}
	return answer.ExporterResponse["containerimage.digest"], nil
}
