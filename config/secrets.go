package config

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"vega/config/secret"
)

// secretsFolder holds the generated secrets, under the data folder. Its mode is 0700, that of its files 0600.
const secretsFolder = "secrets"

// KeepSecrets fills in the secrets that may be generated and were not set: from the data folder, where the first process of
// the installation that calls it puts them. Processes that share the data folder get the same ones, also when they start
// at the same moment.
func (c *Config) KeepSecrets() error {
	if len(c.generate) == 0 {
		return nil
	}
	dir := filepath.Join(c.DataDir, secretsFolder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep generated secrets: %w", err)
	}
	folder, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("keep generated secrets: %w", err)
	}
	defer folder.Close() // frees the lock; nothing was written through it
	if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("keep generated secrets: lock %s: %w", dir, err)
	}
	for _, g := range c.generate {
		if *g.target(c), err = keepSecret(folder, filepath.Join(dir, g.file)); err != nil {
			return fmt.Errorf("keep the generated %s: %w", g.variable, err)
		}
	}
	return nil
}

// keepSecret reads the secret at path or makes it. The caller holds the lock on the folder.
func keepSecret(folder *os.File, path string) (secret.String, error) {
	data, err := os.ReadFile(path)
	if kept := strings.TrimSpace(string(data)); err == nil && len(kept) >= shortSecret {
		return secret.New(kept), nil
	}
	if err == nil {
		return secret.String{}, fmt.Errorf("%s holds no secret of at least %d bytes; restore it or remove it", path, shortSecret)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return secret.String{}, err
	}
	made := rand.Text() + rand.Text() // 260 bits
	if err := writeSynced(path+".new", made+"\n"); err != nil {
		return secret.String{}, err
	}
	// A crash here leaves PATH.new, which nothing reads; the next start overwrites and renames it.
	if err := os.Rename(path+".new", path); err != nil {
		return secret.String{}, err
	}
	// A crash here may lose the name again; nothing has used the secret yet, so the next start makes another.
	return secret.New(made), folder.Sync()
}

func writeSynced(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}
