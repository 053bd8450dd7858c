package maintenance

import (
	"context"
	"errors"
	"iter"
	"time"

	"vega/services/files"
)

// partial is a file storage in which an upload may have begun and never ended: S3 keeps the parts, and bills them, until somebody aborts it.
type partial interface {
	// Uploads yields every upload that has begun and not ended. It may be called while uploads begin and end, and stops after the first error.
	Uploads(ctx context.Context) iter.Seq2[files.Upload, error]
	// Parts lists what has arrived of one. It fails with files.ErrNotFound once the upload has ended.
	Parts(ctx context.Context, key, id string) ([]files.Part, error)
	// AbortUpload removes one. It succeeds when the upload is not there.
	AbortUpload(ctx context.Context, key, id string) error
}

const (
	exportsFolder = "exports/"
	uploadsFolder = "uploads/"
)

// exports removes exports that are old enough. Whoever wants one again makes it again.
func (c *cleaning) exports(ctx context.Context) error {
	return c.older(ctx, exportsFolder, time.Duration(c.m.opt.ExportRetentionDays)*24*time.Hour)
}

// uploads removes what clients have uploaded for an ingestion that never came or never finished, and the uploads that stopped before their end.
func (c *cleaning) uploads(ctx context.Context) error {
	retention := time.Duration(c.m.opt.UploadRetentionHours) * time.Hour
	err := c.older(ctx, uploadsFolder, retention)
	if store, ok := c.m.Files.(partial); ok && retention > 0 {
		err = errors.Join(err, c.abandoned(ctx, store, retention))
	}
	return err
}

// older removes the objects below prefix that were put longer ago than retention, if that is not 0. An object that has been put again since it was listed
// is left.
func (c *cleaning) older(ctx context.Context, prefix string, retention time.Duration) error {
	if retention == 0 {
		return nil
	}
	for o, err := range c.m.Files.List(ctx, prefix) {
		if err != nil {
			return err
		}
		if c.now.Sub(o.Modified) <= retention {
			continue
		}
		now, err := c.m.Files.Stat(ctx, o.Key)
		if err != nil && !errors.Is(err, files.ErrNotFound) {
			return err
		}
		if err != nil || c.now.Sub(now.Modified) <= retention {
			continue
		}
		if err := c.remove(ctx, now); err != nil {
			return err
		}
	}
	return nil
}

// abandoned aborts the uploads that began, and received their last part, longer ago than retention: of clients, and of processes that died in a Put.
func (c *cleaning) abandoned(ctx context.Context, store partial, retention time.Duration) error {
	for u, err := range store.Uploads(ctx) {
		if err != nil {
			return err
		}
		if c.now.Sub(u.Begun) <= retention {
			continue
		}
		parts, err := store.Parts(ctx, u.Key, u.ID)
		if errors.Is(err, files.ErrNotFound) {
			continue // it has ended
		}
		if err != nil {
			return err
		}
		last := u.Begun
		var bytes int64
		for _, p := range parts {
			bytes += p.Bytes
			if p.Received.After(last) {
				last = p.Received
			}
		}
		if c.now.Sub(last) <= retention {
			continue
		}
		// A part that arrives right now is lost with the upload; its client begins again.
		if err := store.AbortUpload(ctx, u.Key, u.ID); err != nil {
			return err
		}
		c.removed.Uploads++
		c.removed.Bytes += bytes
	}
	return nil
}
