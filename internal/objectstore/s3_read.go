package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Get implements Store. A connection that breaks while the object is read is opened again where it broke, for this
// very version of the object. The reader belongs to ctx: it fails when ctx ends.
func (s *S3) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	const step = "get"
	if err := beforeUse(ctx, step, key); err != nil {
		return nil, Info{}, err
	}
	body, _, info, err := s.open(ctx, step, key)
	return body, info, err
}

// open sends the GetObject of a whole object.
func (s *S3) open(ctx context.Context, step, key string) (io.ReadCloser, *s3.GetObjectOutput, Info, error) {
	input := &s3.GetObjectInput{Bucket: aws.String(s.options.Bucket), Key: s.name(key)}
	if s.options.Checksums == ChecksumsWhenSupported {
		input.ChecksumMode = types.ChecksumModeEnabled
	}
	output, err := s.client.GetObject(ctx, input)
	if err != nil {
		return nil, nil, Info{}, s.fail(ctx, step, key, err)
	}
	if output.ContentLength == nil || *output.ContentLength < 0 {
		_ = output.Body.Close()
		return nil, nil, Info{}, fmt.Errorf("%s %s: store answered without the object's length", step, key)
	}
	info := Info{Key: key, Size: *output.ContentLength, ETag: bareETag(output.ETag), Modified: aws.ToTime(output.LastModified).UTC()}
	resuming := &resumingReader{ctx: ctx, store: s, key: key, info: info, body: output.Body}
	return &exactReader{ctx: ctx, key: key, source: resuming, left: info.Size}, output, info, nil
}

// resumingReader reads an object's body and, when that breaks off before the end, goes on with the range that is
// missing. It leaves the judgement of the end to exactReader.
type resumingReader struct {
	ctx   context.Context
	store *S3
	key   string
	info  Info

	body     io.ReadCloser // nil after a break, until opened again
	offset   int64
	failures int // since the last byte received
}

func (r *resumingReader) Read(into []byte) (int, error) {
	for {
		if r.body == nil {
			if err := r.reopen(); err != nil {
				return 0, err
			}
		}
		n, err := r.body.Read(into)
		r.offset += int64(n)
		if n > 0 {
			r.failures = 0
		}
		if err == nil || r.offset >= r.info.Size || r.ctx.Err() != nil || r.failures >= r.store.options.MaxAttempts-1 {
			return n, err
		}
		_ = r.body.Close()
		r.body = nil
		r.failures++
		if n > 0 {
			return n, nil
		}
		if err := r.store.pause(r.ctx, r.failures); err != nil {
			return 0, err
		}
	}
}

func (r *resumingReader) reopen() error {
	input := &s3.GetObjectInput{
		Bucket:  aws.String(r.store.options.Bucket),
		Key:     r.store.name(r.key),
		Range:   aws.String(fmt.Sprintf("bytes=%d-", r.offset)),
		IfMatch: aws.String(`"` + r.info.ETag + `"`),
	}
	output, err := r.store.client.GetObject(r.ctx, input)
	if err != nil {
		if err = r.store.fail(r.ctx, "go on reading", r.key, err); errors.Is(err, errCondition) {
			return errors.New("object was replaced while it was read")
		}
		return err
	}
	if err := rangeAnswered(output, r.offset, r.info.Size-r.offset); err != nil {
		_ = output.Body.Close()
		return err
	}
	r.body = output.Body
	return nil
}

func (r *resumingReader) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}

// GetRange implements Store.
func (s *S3) GetRange(ctx context.Context, key string, offset, length int64) ([]byte, error) {
	const step = "get range of"
	if err := beforeUse(ctx, step, key); err != nil {
		return nil, err
	}
	if err := checkRange(key, offset, length); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		content, err := s.readRange(ctx, step, key, offset, length)
		var broken *ReadError
		if !errors.As(err, &broken) || attempt >= s.options.MaxAttempts {
			return content, err
		}
		if err := s.pause(ctx, attempt); err != nil {
			return nil, endedError(ctx, step, key)
		}
	}
}

// readRange is one attempt of GetRange; a body that broke off is a *ReadError.
func (s *S3) readRange(ctx context.Context, step, key string, offset, length int64) ([]byte, error) {
	output, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: aws.String(s.options.Bucket),
		Key:    s.name(key),
		Range:  aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)),
	})
	if err != nil {
		if apiCode(err) == "InvalidRange" || httpStatus(err) == http.StatusRequestedRangeNotSatisfiable {
			return nil, &RangeError{Key: key, Offset: offset, Length: length, Size: -1}
		}
		return nil, s.fail(ctx, step, key, err)
	}
	defer output.Body.Close()
	// S3 cuts a range at the object's end; here that is an error.
	if answered := output.ContentLength; output.ContentRange != nil && answered != nil && *answered < length {
		return nil, &RangeError{Key: key, Offset: offset, Length: length, Size: offset + *answered}
	}
	if err := rangeAnswered(output, offset, length); err != nil {
		return nil, fmt.Errorf("%s %s: %w", step, key, err)
	}
	content := make([]byte, length)
	if _, err := io.ReadFull(output.Body, content); err != nil {
		if ctx.Err() != nil {
			return nil, endedError(ctx, step, key)
		}
		return nil, &ReadError{Key: key, Err: err}
	}
	return content, nil
}

// rangeAnswered checks that the answer is the range asked for, and not the whole object from a store or proxy that
// does not know ranges.
func rangeAnswered(output *s3.GetObjectOutput, offset, length int64) error {
	begin := fmt.Sprintf("bytes %d-%d/", offset, offset+length-1)
	if answered := aws.ToString(output.ContentRange); !strings.HasPrefix(answered, begin) {
		return fmt.Errorf("store answered the range %q, asked was %q", answered, strings.TrimSuffix(begin, "/"))
	}
	if answered := aws.ToInt64(output.ContentLength); output.ContentLength == nil || answered != length {
		return fmt.Errorf("store answered %d bytes, asked was a range of %d", answered, length)
	}
	return nil
}

// Stat implements Store.
func (s *S3) Stat(ctx context.Context, key string) (Info, error) {
	const step = "stat"
	if err := beforeUse(ctx, step, key); err != nil {
		return Info{}, err
	}
	output, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(s.options.Bucket), Key: s.name(key)})
	if err != nil {
		err = s.fail(ctx, step, key, err)
		if errors.Is(err, ErrNotFound) {
			// The answer to HEAD has no body that says what is missing: the object, the bucket or (some stores answer
			// 404 there too) the one who asks.
			if bucketErr := s.CheckBucket(ctx); errors.Is(bucketErr, ErrNoBucket) || errors.Is(bucketErr, ErrDenied) {
				return Info{}, fmt.Errorf("%s %s: %w", step, key, bucketErr)
			}
		}
		return Info{}, err
	}
	if output.ContentLength == nil {
		return Info{}, fmt.Errorf("%s %s: store answered without the object's length", step, key)
	}
	return Info{Key: key, Size: *output.ContentLength, ETag: bareETag(output.ETag), Modified: aws.ToTime(output.LastModified).UTC()}, nil
}

// List implements Store. Memory is that of one page, at most 1000 objects. Keys that hourvault cannot have written
// (the "folders" of some consoles) are passed over. Stores that do not sort are refused.
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	const step = "list"
	return func(yield func(Info, error) bool) {
		if err := checkListPrefix(prefix); err != nil {
			yield(Info{}, err)
			return
		}
		if ctx.Err() != nil {
			yield(Info{}, endedError(ctx, step, prefix))
			return
		}
		pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{
			Bucket: aws.String(s.options.Bucket),
			Prefix: s.name(prefix),
		}, func(o *s3.ListObjectsV2PaginatorOptions) { o.StopOnDuplicateToken = true })
		previous := ""
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(Info{}, s.fail(ctx, step, prefix, err))
				return
			}
			for _, object := range page.Contents {
				full := aws.ToString(object.Key)
				key, ok := strings.CutPrefix(full, s.options.Prefix)
				if !ok || !strings.HasPrefix(key, prefix) || full <= previous {
					yield(Info{}, fmt.Errorf("%s %s: store answered %q after %q: it does not list by prefix and in order", step, prefix, full, previous))
					return
				}
				previous = full
				if CheckKey(key) != nil {
					continue
				}
				if object.Size == nil {
					yield(Info{}, fmt.Errorf("%s %s: store answered without the length of %s", step, prefix, key))
					return
				}
				info := Info{Key: key, Size: *object.Size, ETag: bareETag(object.ETag), Modified: aws.ToTime(object.LastModified).UTC()}
				if !yield(info, nil) {
					return
				}
			}
			if ctx.Err() != nil {
				yield(Info{}, endedError(ctx, step, prefix))
				return
			}
		}
	}
}
