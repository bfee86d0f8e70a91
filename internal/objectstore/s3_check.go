package objectstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// CheckBucket says whether the bucket is there and may be listed: ErrNoBucket, ErrDenied, ErrClockSkew, or that it
// cannot be reached.
func (s *S3) CheckBucket(ctx context.Context) error {
	step := "check bucket"
	// Listing, not HeadBucket: its answer has a body, which tells the cases apart.
	_, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
		Bucket: aws.String(s.options.Bucket), Prefix: aws.String(s.options.Prefix), MaxKeys: aws.Int32(1),
	})
	if err = s.fail(ctx, step, s.options.Bucket, err); errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%s %s: %w at %s: create it, or correct bucket, region and endpoint", step, s.options.Bucket, ErrNoBucket, s.place())
	}
	return err
}

// Skew returns how far this machine's clock is ahead of the store's; negative when it is behind. It is exact to
// about a second. It also answers when the store refuses requests because of the clock, or for want of permission.
func (s *S3) Skew(ctx context.Context) (time.Duration, error) {
	output, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: aws.String(s.options.Bucket)})
	if err != nil {
		if skew, ok := answeredSkew(err); ok {
			return skew, nil
		}
		return 0, s.fail(ctx, "ask the time of", s.options.Bucket, err)
	}
	date, ok := awsmiddleware.GetServerTime(output.ResultMetadata)
	if !ok {
		return 0, fmt.Errorf("ask the time of %s: store answered without the header Date", s.options.Bucket)
	}
	return time.Since(date).Round(time.Second), nil
}

// Encryption says in words what every write asks for and has confirmed: "none", "AES256", "aws:kms" and the key.
func (s *S3) Encryption() string {
	if s.options.SSEKMSKeyID != "" {
		return string(s.options.SSE) + " with key " + s.options.SSEKMSKeyID
	}
	return string(s.options.SSE)
}

// Checksums returns the checksum mode in use.
func (s *S3) Checksums() Checksums { return s.options.Checksums }

// ChecksumStored says whether the store keeps a SHA-256 with the object at key. ErrNotFound when there is none.
func (s *S3) ChecksumStored(ctx context.Context, key string) (bool, error) {
	output, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{
		Bucket: aws.String(s.options.Bucket), Key: s.name(key), ChecksumMode: types.ChecksumModeEnabled,
	})
	if err != nil {
		return false, s.fail(ctx, "stat", key, err)
	}
	return strings.TrimSpace(aws.ToString(output.ChecksumSHA256)) != "", nil
}
